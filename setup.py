"""What pyproject.toml has no settled place for: the C module, which a compiler makes."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "viewstore._crops",
            ["viewstore/crops.c"],
            extra_compile_args=["-O3", "-ffp-contract=off", "-fno-math-errno"],
            optional=True,  # without a compiler OpenCV makes the same pixels (docs/decisions/0005)
        )
    ]
)
