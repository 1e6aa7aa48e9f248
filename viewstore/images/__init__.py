"""Pixels: encoded bytes to uint8 RGB and back, crops, colours, and the draws that steer them.

Views that are stored are rebuilt bit for bit with these functions, so the pixels and draws that
they return are fixed for good, and so are the bytes that a codec makes with one encoder; golden
tests hold them. How fast and where they are computed is free: crops.c cuts and resizes as OpenCV
does, and where it could not be compiled OpenCV does it. A new codec is a file with its class, and
a row in `codec.CODECS`.
"""
