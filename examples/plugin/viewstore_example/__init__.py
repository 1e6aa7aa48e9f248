"""An example of a package that adds to viewstore; each module is one thing that it adds."""
