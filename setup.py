"""What a worker installs; run as `--setup_file=./setup.py` by engines that stage packages."""

from setuptools import Extension, find_packages, setup

DASK = ["dask>=2026.8", "distributed>=2026.8"]

setup(
    name="ctc-line-reader",
    version="0.1.0",
    description="Train your own CTC line recogniser, and read the whole collection with it every night",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(
        include=["pipeline", "pipeline.*", "components", "components.*", "tfrecords", "tfrecords.*"]
    ),
    # Where no compiler is found, Pillow does the same in more time.
    ext_modules=[
        Extension(
            "tfrecords.scanlines",
            ["tfrecords/scanlines.c"],
            extra_compile_args=["-O3", "-ffp-contract=off"],  # without fused multiplications, as Pillow
            py_limited_api=True,
            optional=True,
        )
    ],
    package_data={
        "pipeline": ["report/report.html.j2"],
        "components": ["review/review.html.j2", "training/base/*/*"],
    },
    entry_points={"console_scripts": ["line-reader = pipeline.start:command"]},
    install_requires=[
        "apache-beam[gcp]>=2.77,<2.78",
        "build>=1.3",  # and setuptools, for --setup_file
        "fsspec>=2026.9",
        "gcsfs>=2026.9,<2026.11",  # reading uses parts of it that are not public
        "google-cloud-storage>=3.17,<4",
        "google-crc32c>=1.8",
        "isal>=1.9.1,<2",
        "jinja2>=3.1",
        "keras>=3.15,<3.16",
        "matplotlib>=3.10",
        "numpy>=2.2",
        "onnx>=1.20",
        "onnxruntime>=1.23",
        "pillow>=12.2",
        "pyarrow>=25,<26",
        "python-bidi>=0.6.12,<0.7",
        "python-calamine>=0.9.1,<0.10",
        "pyyaml>=6.0",
        "rapidfuzz>=3.14",
        "rich>=15",
        "setuptools>=77",
        "tensorflow>=2.21,<2.22",
        "tensorflow-metadata>=1.21,<1.22",
        "tf2onnx>=1.17",
        "tfx-bsl>=1.21,<1.22",
    ],
    extras_require={
        "dask": DASK,
        "test": [
            *DASK,
            "cryptography>=45",
            "dockerfile-parse>=2.0.1",
            "duckdb>=1.4",
            "gcp-storage-emulator>=2026.7",
            "google-cloud-aiplatform>=1.165",
            "google-cloud-scheduler>=2.21",
            "kubeflow-training>=1.9,<2",
            "kubernetes>=35",
            "mypy>=2.4",
            "pandas>=2.2",
            "prometheus-client>=0.26",
            "playwright>=1.65",  # drives the Chromium that is on the path, and downloads none
            "pytest>=9.2",
            "pytest-xdist>=3.8",
            "ruff>=0.17",
            "types-PyYAML",
        ],
    },
)
