"""The meaning of labels, checked for everything that takes them: a column [N, 1] of integers holds class ids everywhere."""

from pathlib import Path

import numpy as np
import pytest
import torch

import orthohash_triton as oht
from orthohash_triton import metrics
from orthohash_triton.data import Dataset, features

# Four queries and five gallery codes; the labels are 0 and 1 only, so that a column of them could pass for multi-hot rows.
QUERIES = np.array([[0], [255], [3], [15]], np.uint8)
GALLERY = np.array([[0], [3], [7], [31], [255]], np.uint8)
QUERY_LABELS, GALLERY_LABELS = np.array([0, 1, 1, 0]), np.array([0, 0, 1, 0, 1])
DISTANCE = np.array([[0, 0.5], [0.5, 0]])

METRICS = {
    "average_precision": lambda q, g: metrics.average_precision(QUERIES, GALLERY, q, g).tolist(),
    "mean_average_precision": lambda q, g: metrics.mean_average_precision(QUERIES, GALLERY, q, g, ties="expected"),
    "scores": lambda q, g: metrics.mean_average_precision_from_scores(-np.arange(20.0).reshape(4, 5) % 3, q, g),
    "evaluate": lambda q, g: metrics.evaluate(QUERIES, GALLERY, q, g, k=(2, None)).figures(),
    "ndcg": lambda q, g: metrics.ndcg(QUERIES, GALLERY, q, g),
    "average_cumulative_gain": lambda q, g: metrics.average_cumulative_gain(QUERIES, GALLERY, q, g, k=2),
    "precision_at_k": lambda q, g: metrics.precision_at_k(QUERIES, GALLERY, q, g, k=2),
    "recall_at_k": lambda q, g: metrics.recall_at_k(QUERIES, GALLERY, q, g, k=2),
    "precision_at_radius": lambda q, g: metrics.precision_at_radius(QUERIES, GALLERY, q, g, radius=2),
    "distance_histograms": lambda q, g: metrics.distance_histograms(QUERIES, GALLERY, q, g).inter.tolist(),
}
BY_CLASS_DISTANCE = {
    "hierarchical_precision": lambda q, g: metrics.hierarchical_precision(QUERIES, GALLERY, q, g, DISTANCE, k=2),
    "mAHP": lambda q, g: metrics.mean_average_hierarchical_precision(QUERIES, GALLERY, q, g, DISTANCE),
}
FORMS = {
    "a column": lambda ids: ids[:, None],
    "a column of bytes": lambda ids: ids[:, None].astype(np.uint8),
    "a list": lambda ids: ids.tolist(),
    "a list of rows": lambda ids: ids[:, None].tolist(),
    "a tuple": lambda ids: tuple(ids.tolist()),
    "another byte order": lambda ids: ids.astype(">i4"),
    "another byte order, a column": lambda ids: ids[:, None].astype(">i8"),
    "unsigned": lambda ids: ids.astype(np.uint16),
    "a tensor": torch.from_numpy,
    "a list of tensors": lambda ids: list(torch.from_numpy(ids)),
    "objects": lambda ids: ids.astype(object),
}
NAMED = {
    "a list": lambda ids: ["cat" if i else "zebra" for i in ids],
    "an array": lambda ids: np.array(["cat" if i else "zebra" for i in ids]),
    "a column": lambda ids: np.array([["cat" if i else "zebra"] for i in ids]),
    "objects": lambda ids: np.array(["cat" if i else "zebra" for i in ids], dtype=object),
    "bytes": lambda ids: np.array([b"cat" if i else b"zebra" for i in ids]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", [*METRICS, *BY_CLASS_DISTANCE])
def test_metrics_take_class_ids_in_every_form(metric: str, form: str) -> None:
    function, convert = (METRICS | BY_CLASS_DISTANCE)[metric], FORMS[form]
    assert function(convert(QUERY_LABELS), convert(GALLERY_LABELS)) == function(QUERY_LABELS, GALLERY_LABELS)
    assert function(convert(QUERY_LABELS), GALLERY_LABELS) == function(QUERY_LABELS, GALLERY_LABELS)  # one side alone


@pytest.mark.parametrize("form", NAMED)
@pytest.mark.parametrize("metric", METRICS)
def test_metrics_take_names(metric: str, form: str) -> None:
    function, convert = METRICS[metric], NAMED[form]
    assert function(convert(QUERY_LABELS), convert(GALLERY_LABELS)) == function(QUERY_LABELS, GALLERY_LABELS)
    assert function(convert(QUERY_LABELS), NAMED["a list"](GALLERY_LABELS)) == function(QUERY_LABELS, GALLERY_LABELS)


def test_names_of_one_side_alone_are_classes_too() -> None:
    assert metrics.mean_average_precision(QUERIES[:1], GALLERY[:1], ["wolf"], ["dog"]) == 0


def test_multi_hot_rows_may_be_a_list_or_unsigned() -> None:
    queries, gallery = np.array([[1, 0], [0, 1], [1, 1], [0, 0]]), np.array([[1, 0]] * 3 + [[0, 1]] * 2)
    expected = metrics.mean_average_precision(QUERIES, GALLERY, queries, gallery)
    assert metrics.mean_average_precision(QUERIES, GALLERY, queries.tolist(), gallery.astype(np.uint16)) == expected


def test_one_class_of_bools_is_multi_hot() -> None:
    """Items without the only class are relevant to nothing; as class ids 0 and 1 the result would be larger."""
    found = metrics.average_precision(QUERIES, GALLERY, QUERY_LABELS[:, None] == 1, GALLERY_LABELS[:, None] == 1)
    assert found[[0, 3]].tolist() == [0, 0]
    assert found[[1, 2]].tolist() == metrics.average_precision(QUERIES, GALLERY, QUERY_LABELS, GALLERY_LABELS)[[1, 2]].tolist()


@pytest.mark.parametrize(
    ("queries", "gallery", "error", "message"),
    [
        (
            QUERY_LABELS[:, None].astype(float),
            GALLERY_LABELS,
            TypeError,
            r"query_labels \[4, 1\] of float64 can be a column of class",
        ),
        (
            QUERY_LABELS,
            GALLERY_LABELS[:, None].astype("f4"),
            TypeError,
            r"gallery_labels \[5, 1\] of float32.*to integers.*to bool",
        ),
        (["a"] * 4, GALLERY_LABELS, TypeError, "names on both sides or numbers on both sides; got query_labels list"),
        (["a"] * 4, torch.zeros(5), TypeError, "names on both sides or numbers on both sides"),
        (["a", 1, "b", "c"], ["a"] * 5, TypeError, "query_labels must be one name per row, or numbers; got list"),
        ([["a", "b"]] * 4, ["a"] * 5, TypeError, "Rows of several names become zeros and ones.*MultiLabelBinarizer"),
        ([["a", "b"], ["a"], [], []], ["a"] * 5, ValueError, "query_labels must have rows of one length"),
        ([[0, 1], [1], [0], [0]], [0] * 5, ValueError, "query_labels must have rows of one length"),
        ([2**80] * 4, [0] * 5, TypeError, "query_labels must be one name per row, or numbers"),
        ([0, None, 1, 1], [0] * 5, TypeError, "query_labels must be one name per row, or numbers"),
        ("abcd", "abcde", TypeError, "query_labels must be a tensor, an array or a list"),
        ({0: 1}, [0] * 5, TypeError, "query_labels must be a tensor, an array or a list"),
        ([0] * 3, [0] * 5, ValueError, "query_labels must have one row for each of the 4"),
        (["a"] * 3, ["a"] * 5, ValueError, "query_labels must have one row for each of the 4"),
        ([0.0, 1.0, 1.0, 1.0], [0] * 5, TypeError, "Convert class ids with .long"),
    ],
)
def test_labels_of_no_kind(queries: object, gallery: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"evaluate: .*{message}"):
        metrics.evaluate(QUERIES, GALLERY, queries, gallery)


def test_names_have_no_place_in_a_matrix_of_distances() -> None:
    with pytest.raises(TypeError, match="must be class ids, the rows of class_distance; got names"):
        metrics.hierarchical_precision(QUERIES, GALLERY, ["a"] * 4, ["b"] * 5, DISTANCE, k=2)


# ---- losses ------------------------------------------------------------------------------------------------------------------

CODEBOOK = oht.make_codebook(4, 16, seed=0)
BETWEEN_CLASSES = 1 - torch.eye(4)
LOSSES = {
    "cosine_codebook_loss": lambda z, t: oht.cosine_codebook_loss(z, t, CODEBOOK),
    "orthohash_loss": lambda z, t: oht.orthohash_loss(z, t, CODEBOOK, training=True),
    "central_similarity_loss": lambda z, t: oht.central_similarity_loss(z, t, CODEBOOK),
    "minimum_distance_loss": lambda z, t: oht.minimum_distance_loss(z, t, CODEBOOK, z, t),
    "pairwise_likelihood_loss": lambda z, t: oht.pairwise_likelihood_loss(z, t, z, t, alpha=0.1),
    "pairwise of one batch": lambda z, t: oht.pairwise_likelihood_loss(z, t, alpha=0.1),
    "semantic_hierarchy_loss": lambda z, t: oht.semantic_hierarchy_loss(z, t, BETWEEN_CLASSES, kl_weight=0.0),
    "class_similarity": lambda z, t: oht.class_similarity(z[:, :4], t),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("highest", [1, 3], ids=["zeros and ones", "four classes"])
def test_losses_take_a_column_of_class_ids(loss: str, highest: int) -> None:
    z = torch.randn(12, 16, generator=torch.Generator().manual_seed(0)).tanh()
    target = torch.arange(12) % (highest + 1)
    if loss == "class_similarity" and highest == 1:
        pytest.skip("every class needs a sample")
    assert torch.equal(LOSSES[loss](z, target[:, None]), LOSSES[loss](z, target))


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_refuse_a_column_of_floats(loss: str) -> None:
    z = torch.randn(12, 16, generator=torch.Generator().manual_seed(0)).tanh()
    with pytest.raises((TypeError, ValueError), match=r"(target|labels) (\[12, 1\] of float32 can be|must be)"):
        LOSSES[loss](z, (torch.arange(12) % 2)[:, None].float())


# ---- data sets ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["i8", "u1", ">i4", "u2"])
def test_files_of_features_take_a_column_of_class_ids(dtype: str, tmp_path: Path) -> None:
    column = (np.arange(6) % 2)[:, None].astype(dtype)
    np.savez(tmp_path / "x.npz", features=np.ones((6, 2)), labels=column)
    np.save(tmp_path / "y.npy", np.ones((6, 2)))
    np.save(tmp_path / "y.labels.npy", column)
    for name in ("x.npz", "y.npy"):
        dataset = features.load(tmp_path / name)
        assert dataset.labels.tolist() == [0, 1] * 3
        assert dataset.class_names == ("0", "1")


def test_files_of_features_refuse_a_column_of_floats(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", features=np.ones((6, 2)), labels=np.ones((6, 1)))
    with pytest.raises(ValueError, match=r"x\.npz: labels \[6, 1\] of float64 can be a column of class ids"):
        features.load(tmp_path / "x.npz")


def test_a_dataset_refuses_a_column_of_class_ids() -> None:
    for labels in (torch.tensor([[0], [1]]), torch.tensor([[0.0], [1.0]])):
        with pytest.raises(
            ValueError, match=r"labels must be int64 \[2\].*Pass a column of class ids as labels\[:, 0\]\.long\(\)"
        ):
            Dataset(torch.zeros(2, 3), labels, ("cat", "dog"), "toy")
