"""The list of packages, which pyproject.toml cannot say: the top-level data/ is installed as rome_engine.data."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["rome_engine", "rome_engine.*"]), "rome_engine.data"],
    package_dir={"rome_engine.data": "data"},
)
