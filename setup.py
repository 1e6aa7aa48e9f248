"""What pyproject.toml has no settled place for: the C modules, which a compiler makes."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            f"viewstore.{room}_{name}",
            [f"viewstore/{room.replace('.', '/')}{name}.c"],
            extra_compile_args=["-O3", "-ffp-contract=off", "-fno-math-errno"],
            optional=True,  # OpenCV and numpy make the same without (docs/decisions/0005)
        )
        for room, name in (("images.", "crops"), ("", "draws"))
    ]
)
