"""Names of the files in a run folder. Every part of the package that reads or writes a run folder takes them from here.

`runs.run` writes the files of a finished run, `train` the files of a training in progress, `data.images` the list of skipped
images.
"""

# A finished run. CONFIG is written last: a folder without it holds no finished run.
CONFIG = "config.json"  # TrainConfig, the shape of a sample, class names, versions
METRICS = "metrics.json"  # one entry per epoch; retrieval figures after an evaluation
WEIGHTS = "model.safetensors"  # weights of backbone and head
CODEBOOK = "codebook.safetensors"  # int8 +-1 [C, bits], for methods that have a codebook
INDEX = "index.ibxf"  # codes of the gallery, in FAISS's format
LABELS = "labels.safetensors"  # labels of the gallery, int64 [N] or bool [N, C], in the order of the index
PATHS = "paths.json"  # files of the gallery's images, if it was read from files
QUERIES = "queries.safetensors"  # codes uint8 [Q, bits/8] and labels of the evaluated queries
QUERY_PATHS = "query_paths.json"  # files of the queries' images, if they were read from files
SKIPPED = "skipped.json"  # image files that could not be read, with the reasons

# A training in progress.
CHECKPOINT = "checkpoint.pt"  # the state to resume from; removed when the run is finished
EPOCHS = "metrics.jsonl"  # one line of JSON for each finished epoch
TENSORBOARD = "tensorboard"  # folder with TensorBoard's logs, if they were asked for
WANDB = "wandb.json"  # id of the run in Weights & Biases, if logging there was asked for
