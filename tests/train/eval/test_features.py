"""Features of rows of a source, through the threads of a loader."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.eval import made
from viewstore.errors import ConfigError
from viewstore.train.eval import features
from viewstore.train.eval.features import Images, Work, features_of, unlabelled_features
from viewstore.train.eval.transform import OURS, PAPERS, EvalTransform


def test_features_are_the_encoders_of_each_row_in_order(tmp_path: Path) -> None:
    bank, _ = made.images(tmp_path)
    encoder = made.encoder()
    samples = features_of(encoder, bank, OURS.policy(16), Work(threads=2))
    assert samples.features.dtype == np.float32
    assert samples.labels.tolist() == bank.labels.tolist()
    pixels = torch.from_numpy(made.halves(40)[bank.rows]).permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(torch.from_numpy(samples.features), encoder.features(pixels))


@pytest.mark.parametrize("transform", [PAPERS, EvalTransform(resize="8/7", filter="bicubic")])
def test_threads_and_batches_change_nothing(
    tmp_path: Path, transform: EvalTransform, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, _ = made.images(tmp_path)
    encoder = made.encoder(12)
    one = features_of(encoder, bank, transform.policy(12), Work(threads=0))
    monkeypatch.setattr(features, "BATCH_PIXELS", 12 * 12 * 7)
    many = features_of(encoder, bank, transform.policy(12), Work(threads=3))
    np.testing.assert_allclose(one.features, many.features, rtol=1e-5, atol=1e-6)
    plain = features_of(encoder, bank, OURS.policy(12), Work(threads=0))
    assert not np.allclose(one.features, plain.features)


def test_rows_may_stand_in_any_order_where_they_have_no_labels(tmp_path: Path) -> None:
    table = made.source(tmp_path)
    encoder = made.encoder()
    policy = OURS.policy(16)
    rows = np.array([7, 3, 7, 20])
    found = unlabelled_features(encoder, table, rows, policy, Work(threads=0))
    sorted_rows = unlabelled_features(encoder, table, np.array([3, 7, 20]), policy, Work(threads=0))
    np.testing.assert_array_equal(found, sorted_rows[[1, 0, 1, 2]])


def test_probes_of_a_network_with_features_of_their_own_take_those(tmp_path: Path) -> None:
    bank, _ = made.images(tmp_path)
    encoder = made.encoder()
    encoder.probe_features = lambda x: torch.cat([encoder.features(x)] * 2, 1)  # type: ignore[assignment]
    policy = OURS.policy(16)
    near = features_of(encoder, bank, policy, Work(threads=0), for_knn=True).features
    probed = features_of(encoder, bank, policy, Work(threads=0)).features
    np.testing.assert_array_equal(probed, np.concatenate([near, near], axis=1))


def test_images_ascend_and_have_labels(tmp_path: Path) -> None:
    table = made.source(tmp_path)
    with pytest.raises(ConfigError, match="rows of images must ascend"):
        Images(table=table, rows=np.array([2, 1]))
    with pytest.raises(ConfigError, match="at least one labelled sample"):
        Images(table=table, rows=np.array([], np.int64))
