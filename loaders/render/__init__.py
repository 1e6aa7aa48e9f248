"""Views that are drawn as they are asked for: of source images, and on top of cached views.

The draws and the pixels are those of `viewstore.images`; here they are made for whole batches.
"""
