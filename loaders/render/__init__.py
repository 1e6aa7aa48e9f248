"""Views that are rendered while they are loaded: from source images, and on top of cached views.

Draws and pixels are those of `viewstore.images`; here they are made for whole batches. How may be
changed freely, as long as the pixels stay.
"""
