"""Packaging of the library part only: trainers/, datasets/ and configs/ are run from the repository."""

from pathlib import Path

from setuptools import find_packages, setup

VERSION = next(
    line.split('"')[1]
    for line in Path(__file__).with_name("cpt_plugin").joinpath("__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

setup(
    name="cpt-plugin",
    version=VERSION,
    description="Cluster-aware neural-collapse prompt tuning (CPT) as a plug-in regularizer for CLIP prompt learners",
    license="MIT",
    packages=find_packages(include=["cpt_plugin", "cpt_plugin.*"]),
    package_data={"cpt_plugin": ["py.typed", "assets/*", "assets/datasets/*"]},
    python_requires=">=3.11",
    install_requires=["torch>=2.11", "numpy>=1.26"],
    extras_require={
        "engine": [
            "torchvision>=0.26",
            "clip-anytorch>=2.6",
            "faiss-cpu>=1.8",
            "yacs>=0.1.8",
            "pillow>=10",
            "tqdm>=4.66",
            "tensorboard>=2.15",
            "requests>=2.31",
            "safetensors>=0.4",
            "scipy>=1.11",
        ],
        "open_clip": ["open-clip-torch>=2.24"],
        "gdrive": ["gdown>=5.1"],
        "heic": ["pillow-heif>=0.16"],
        "plots": ["matplotlib>=3.8", "scikit-learn>=1.4"],
        "slurm": ["submitit>=1.5"],
        "test": [
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "scikit-learn>=1.4",
            "matplotlib>=3.8",
            "open-clip-torch>=2.24",
        ],
    },
    entry_points={"console_scripts": ["cpt-plugin=cpt_plugin.cli.main:main"]},
)
