"""Result files, whole and broken; results of several processes."""

import json
import pickle
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DistributedSampler

from mnv2vision.data.sample import Boxes, Sample
from mnv2vision.detection.coco_evaluator import CocoEvaluator
from mnv2vision.detection.results import Collector, ImageResult, read_results, write_results, xywh
from mnv2vision.detection.voc_evaluator import VocEvaluator
from mnv2vision.errors import DataError
from mnv2vision.predictions.detection import Detection

CATEGORY_IDS = (18, 3, 90)
NAMES = ("dog", "car", "brush")
PIXEL = np.zeros((1, 1, 3), np.uint8)
NOTHING = Boxes.of(np.empty((0, 4), np.float32), np.empty(0, np.int64))
ROW = {"image_id": 7, "category_id": 3, "bbox": [1.0, 2.0, 10.0, 20.0], "score": 0.5}


def random_result(image_id: int | str, seed: int, objects: int, detections: int) -> ImageResult:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 200, (objects, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 150, (objects, 2))], 1).astype(np.float32)
    labels = rng.integers(0, 3, objects)
    truth = Boxes.of(boxes, labels, crowd=rng.random(objects) < 0.1)
    if not objects:
        source, boxes, labels = np.zeros(detections, int), np.array([[9, 9, 50, 50]], np.float32), np.zeros(1, int)
    else:
        source = rng.integers(0, objects, detections)
    found = boxes[source] + rng.normal(0, 8, (detections, 4)).astype(np.float32)
    scores = np.sort(rng.integers(1, 8, detections) / 7)[::-1].astype(np.float32)  # often equal
    return ImageResult(image_id, Detection(found, scores, labels[source]), truth)


def random_results(count: int = 11, bare: Sequence[int] = (3, 7)) -> list[ImageResult]:
    return [
        random_result(index + 5, index, *((0, 0) if index in bare else (1 + index % 4, 12 - index)))
        for index in range(count)
    ]


def fill(collector: Collector, results: Sequence[ImageResult]) -> None:
    for start in range(0, len(results), 2):
        part = results[start : start + 2]
        samples = [Sample(PIXEL, result.image_id, str(result.image_id), boxes=result.truth) for result in part]
        collector.update([result.found for result in part], samples)


def write_rows(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_format(tmp_path: Path) -> None:
    found = Detection(
        np.array([[1, 2, 11, 22], [0.5, 0, 3, 4]], np.float32),
        np.array([0.75, 0.1], np.float32),
        np.array([2, 0], np.int64),
    )
    truth = NOTHING
    path = tmp_path / "folder/predictions.json"
    write_results(path, [ImageResult(42, found, truth), ImageResult("a b", found, truth)], CATEGORY_IDS)
    rows = json.loads(path.read_bytes())
    score = float(np.float32(0.1))
    assert rows == [
        {"image_id": image_id, "category_id": category_id, "bbox": box, "score": value}
        for image_id in (42, "a b")
        for category_id, box, value in ((90, [1, 2, 10, 20], 0.75), (18, [0.5, 0, 2.5, 4], score))
    ]
    # Numbers of JSON that any tool reads, with their types.
    assert [type(rows[0][key]) for key in ("image_id", "category_id", "score")] == [int, int, float]
    assert all(type(value) is float for value in rows[0]["bbox"])


def test_round_trip(tmp_path: Path) -> None:
    results = [*random_results(), random_result("text", 50, 3, 9)]
    path = tmp_path / "predictions.json"
    write_results(path, results, CATEGORY_IDS)
    read = read_results(path, CATEGORY_IDS)
    assert list(read) == [result.image_id for result in results if len(result.found.labels)]
    for result in results:
        if not len(result.found.labels):
            continue
        found = read[result.image_id]
        np.testing.assert_array_equal(found.boxes.astype(np.float32), result.found.boxes)
        np.testing.assert_array_equal(found.scores, result.found.scores)
        np.testing.assert_array_equal(found.labels, result.found.labels)
        assert found.labels.dtype == np.int64
    again = tmp_path / "again.json"
    write_results(again, [ImageResult(key, found, results[0].truth) for key, found in read.items()], CATEGORY_IDS)
    assert again.read_bytes() == path.read_bytes()


def test_no_detections(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    for results in ([], [random_result(1, 0, 2, 0)]):
        write_results(path, results, CATEGORY_IDS)
        assert json.loads(path.read_bytes()) == []
        assert read_results(path, CATEGORY_IDS) == {}


def test_categories_are_mapped_both_ways(tmp_path: Path) -> None:
    rows = [{**ROW, "category_id": number, "score": score} for number, score in ((90, 0.9), (18, 0.8), (3, 0.7))]
    path = write_rows(tmp_path / "theirs.json", rows)
    found = read_results(path, CATEGORY_IDS)[7]
    assert found.labels.tolist() == [2, 0, 1]
    write_results(tmp_path / "ours.json", [ImageResult(7, found, NOTHING)], CATEGORY_IDS)
    assert json.loads((tmp_path / "ours.json").read_bytes()) == rows


def test_results_of_other_tools_come_in_any_order(tmp_path: Path) -> None:
    rows = [
        {**ROW, "score": 0.25, "segmentation": []},
        {**ROW, "image_id": "x", "bbox": [0, 0, 5, 6]},
        {**ROW, "score": 1, "bbox": [3, 4, 5, 6]},
        {**ROW, "score": 0.25, "category_id": 18},
    ]
    read = read_results(write_rows(tmp_path / "theirs.json", rows), CATEGORY_IDS)
    assert set(read) == {7, "x"}
    assert read[7].scores.tolist() == [1, 0.25, 0.25]
    assert read[7].labels.tolist() == [1, 1, 0]
    assert read[7].boxes.tolist() == [[3, 4, 8, 10], [1, 2, 11, 22], [1, 2, 11, 22]]
    assert read["x"].boxes.tolist() == [[0, 0, 5, 6]]


def test_unknown_category(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "theirs.json", [ROW, {**ROW, "image_id": 123456, "category_id": 77}])
    with pytest.raises(DataError) as caught:
        read_results(path, CATEGORY_IDS)
    message = str(caught.value)
    assert str(path) in message
    assert "77" in message
    assert "123456" in message
    assert "\n" not in message


BROKEN = {
    "object": ROW,
    "empty object": {},
    "text": "results",
    "empty text": "",
    "null": None,
    "number": 3,
    "row that is a list": [[7, 3, 1, 2, 10, 20, 0.5]],
    "row that is null": [ROW, None],
    "list in a list": [[ROW]],
    **{f"without {key}": [{name: value for name, value in ROW.items() if name != key}] for key in ROW},
    "no box": [{**ROW, "bbox": None}],
    "empty box": [{**ROW, "bbox": []}],
    "box of 3": [{**ROW, "bbox": [1, 2, 3]}],
    "boxes of 3": [{**ROW, "bbox": [1, 2, 3]}] * 4,
    "box of 8": [{**ROW, "bbox": [1, 2, 3, 4, 5, 6, 7, 8]}],
    "boxes of 2": [{**ROW, "bbox": [1, 2]}] * 2,
    "ragged boxes": [ROW, {**ROW, "bbox": [1, 2, 3]}],
    "words in a box": [{**ROW, "bbox": ["a", 2, 3, 4]}],
    "no score": [{**ROW, "score": None}],
    "score in words": [{**ROW, "score": "high"}],
    "list of scores": [{**ROW, "score": [0.5]}],
    "score that is no number": [{**ROW, "score": float("nan")}],
    "box that is not finite": [{**ROW, "bbox": [1, 2, float("inf"), 4]}],
    "list of categories": [{**ROW, "category_id": [3]}],
    "list of images": [{**ROW, "image_id": [7]}],
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_rows(name: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "theirs.json", BROKEN[name])
    with pytest.raises(DataError) as caught:
        read_results(path, CATEGORY_IDS)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b'[{"image_id": 7, "cat', b"[" + b"\xff\xfe" * 9, b"\x89PNG\r\n"])
def test_broken_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "theirs.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_results(path, CATEGORY_IDS)
    assert str(path) in str(caught.value)


def test_absent_files(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(DataError) as caught:
            read_results(path, CATEGORY_IDS)
        assert str(path) in str(caught.value)


def test_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "predictions.json"
    results = random_results()
    write_results(path, results[:2], CATEGORY_IDS)
    before = path.read_bytes()
    with pytest.raises(IndexError):
        write_results(path, results, CATEGORY_IDS[:1])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]

    write = Path.write_text
    texts: list[str] = []

    def fail(self: Path, text: str, **options: Any) -> int:
        texts.append(text)
        write(self, text[: len(text) // 2], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    for target in (path, tmp_path / "new.json"):
        with pytest.raises(OSError, match="No space left"):
            write_results(target, results, CATEGORY_IDS)
    assert len(texts) == 2
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_boxes_in_double_precision() -> None:
    boxes = np.array([[0.1, 0.2, 100.3, 200.4]], np.float32)
    converted = xywh(boxes)
    assert converted.dtype == np.float64
    x1, y1, x2, y2 = (float(value) for value in boxes[0])
    assert converted.tolist() == [[x1, y1, x2 - x1, y2 - y1]]
    assert xywh(np.empty((0, 4), np.float32)).shape == (0, 4)


def test_order_of_images() -> None:
    for ids, order in (
        ([10, 2, 33], [2, 10, 33]),
        (["10", "2", "33"], ["10", "2", "33"]),
        (["b", 10, "a", 2], [10, 2, "a", "b"]),
    ):
        collector = VocEvaluator(NAMES)
        fill(collector, [random_result(image_id, 0, 1, 1) for image_id in ids])
        assert collector.results == []
        assert [result.image_id for result in collector.collect()] == order
        assert collector.results == collector.collect()
        collector.reset()
        assert collector.results == collector.collect() == []


CASES = ("sampler", "text", "bare images", "no images", "nothing at all", "bare everywhere")


def _results_of(case: str) -> list[ImageResult]:
    """All images of a case."""
    if case == "nothing at all":
        return []
    results = random_results(bare=range(11) if case == "bare everywhere" else (3, 7))
    if case == "text":
        for result in results:
            result.image_id = f"image {result.image_id}"
    return results


def _share(case: str, rank: int) -> list[int]:
    """Which of the images a process sees."""
    if case == "bare images":
        return [3, 7] if rank else [0, 1, 2, 4, 5, 6, 8, 9, 10]
    if case == "no images":
        return [] if rank == 0 else list(range(11))
    if case == "nothing at all":
        return []
    sampler: DistributedSampler[int] = DistributedSampler(range(11), 2, rank, seed=3)  # type: ignore[arg-type]
    return list(sampler)


def _outcome(results: Sequence[ImageResult], folder: Path) -> list[Any]:
    """All that the evaluators say, exactly; and the file."""
    folder.mkdir()
    outcome: list[Any] = []
    for evaluator in (CocoEvaluator(NAMES), VocEvaluator(NAMES)):
        fill(evaluator, results)
        metrics = evaluator.compute()
        curves = {name: [np.asarray(part).tobytes() for part in curve] for name, curve in evaluator.curves().items()}
        path = folder / "predictions.json"
        write_results(path, evaluator.results, CATEGORY_IDS)
        ids = [result.image_id for result in evaluator.results]
        rows = [tuple(row) for row in evaluator.per_class()]
        outcome.append({"metrics": metrics, "curves": curves, "rows": rows, "ids": ids, "file": path.read_bytes()})
    return outcome


def _process(rank: int, folder: str, patience: float) -> None:
    torch.set_num_threads(1)
    meeting, limit = f"file://{folder}/meet", timedelta(seconds=patience)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=limit)
    for case in CASES:
        results = _results_of(case)
        mine = [results[index] for index in _share(case, rank)]
        outcome = _outcome(mine, Path(folder) / f"{case}, {rank}")
        (Path(folder) / f"{case}, {rank}.pickle").write_bytes(pickle.dumps(outcome))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path, patience: float) -> None:
    shares = [_share("sampler", rank) for rank in (0, 1)]
    assert len(set(shares[0]) & set(shares[1])) == 1  # repeated to give both as many
    context = torch.multiprocessing.spawn(_process, (str(tmp_path), patience), nprocs=2, join=False)
    deadline = time.monotonic() + patience
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < deadline, "the processes wait for one another"
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    for case in CASES:
        expected = _outcome(_results_of(case), tmp_path / case)
        for rank in (0, 1):
            told = pickle.loads((tmp_path / f"{case}, {rank}.pickle").read_bytes())
            np.testing.assert_equal(told, expected, err_msg=f"{case}, {rank}")  # where nan is nan
        coco, voc = (outcome["metrics"] for outcome in expected)
        if case in ("nothing at all", "bare everywhere"):
            assert set(coco.values()) == {-1}  # as pycocotools has it
            assert np.isnan([*voc.values()]).all()
        else:
            assert 0 < coco["AP"] < voc["mAP"] < 1
