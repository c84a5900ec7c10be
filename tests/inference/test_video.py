"""Videos: what is read equals what OpenCV reads; what is written has every frame, at its time."""

import csv
import json
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.common import interruption
from mnv2vision.errors import ConfigError
from mnv2vision.inference import video as module
from mnv2vision.inference.video import Video, VideoWriter

HEIGHT, WIDTH, COUNT = 72, 96, 30


def pictures(count: int = COUNT, height: int = HEIGHT, width: int = WIDTH) -> list[NDArray[np.uint8]]:
    cells = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    size = (width + 2 * count, height + 2 * count)
    large = np.array(Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC))
    return [large[2 * i : 2 * i + height, 2 * i : 2 * i + width] for i in range(count)]


def written(path: Path, container: str, codec: str, rate: int = 10) -> Path:
    """A video by PyAV itself."""
    with av.open(str(path), "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for picture in pictures():
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    return path


def of_opencv(path: Path) -> list[NDArray[np.uint8]]:
    capture, found = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        found.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    return found


def close(a: NDArray[np.uint8], b: NDArray[np.uint8], most: float = 3) -> bool:
    """Alike but for the conversion from YUV; a codec takes more."""
    return a.shape == b.shape and float(np.abs(a.astype(int) - b).mean()) < most


def turned(path: Path) -> None:
    """Make the file say that its frames are shown turned by 90 degrees clockwise: (x, y) goes to (-y, x)."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44  # ISO/IEC 14496-12, version 0
    one = 1 << 16
    assert struct.unpack(">9i", content[matrix : matrix + 36]) == (one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    content[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, HEIGHT * one, 0, 1 << 30)
    path.write_bytes(content)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx")])
def test_frames(container: str, codec: str, tmp_path: Path) -> None:
    path = written(tmp_path / f"a.{container}", container, codec)
    video, wanted = Video(str(path)), of_opencv(path)
    batches = list(video.batches(7, every=3))
    frames = [frame for batch in batches for frame in batch]
    assert [len(batch) for batch in batches] == [7, 3]
    assert [frame.number for frame in frames] == list(range(0, COUNT, 3))
    assert [frame.seconds for frame in frames] == pytest.approx([i / 10 for i in range(0, COUNT, 3)], abs=0.002)
    assert len(wanted) == video.read == COUNT
    assert all(close(frame.image, wanted[frame.number]) for frame in frames)
    assert video.total in (COUNT, 0)
    assert not video.fault


def test_a_telephone_s_video_is_upright(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mp4", "mp4", "libx264")
    turned(path)
    (first, *_), *_ = Video(str(path)).batches(1)
    assert first.image.shape == (WIDTH, HEIGHT, 3)
    assert close(first.image, np.rot90(pictures()[0], -1), 8)
    assert close(first.image, of_opencv(path)[0])


def test_writing_keeps_times_and_pictures(tmp_path: Path) -> None:
    seconds = [0.0, 0.1, 0.15, 2.0, 2.0, 2.5]  # a camera's; two at once
    odd = pictures(len(seconds), 71, 95)
    with VideoWriter(tmp_path / "a.mp4") as writer:
        for picture, at in zip(odd, seconds, strict=True):
            writer.write(picture, at)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = list(container.decode(video=0))
    # The least step apart where two came at once.
    assert [float(frame.time or 0) for frame in frames] == pytest.approx(seconds, abs=1e-4)
    assert (frames[0].height, frames[0].width) == (72, 96)
    assert all(
        close(frame.to_ndarray(format="rgb24")[:71, :95], picture, 8)
        for frame, picture in zip(frames, odd, strict=True)
    )


@pytest.fixture(scope="module")
def checkpoint(randomize: Callable[[nn.Module], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = mv.create_model("detection", width=0.35, names=("ant", "bee"), image_size=64)
    randomize(model)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    mv.save(model, path)
    return path


def predict(checkpoint: Path, folder: Path, *arguments: str) -> int:
    options = (f"checkpoint={checkpoint}", f"output={folder}", "threshold=0.5", "max_detections=3", "batch_size=4")
    return main(["predict", *options, *arguments])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_predict(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    clip = written(tmp_path / "in/deeper/clip.avi", "avi", "mpeg4")
    Image.fromarray(pictures()[0]).save(tmp_path / "in/photo.jpg")
    assert predict(checkpoint, tmp_path / "out", f"images={tmp_path / 'in'}", "every=4") == 0
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    tables = ["clip.avi.counts.csv", "clip.avi.csv", "clip.avi.mp4"]
    assert names == [*tables, "counts.csv", "photo.jpg", "predictions.csv", "predictions.json"]
    assert len(of_opencv(tmp_path / "out/clip.avi.mp4")) == len(range(0, COUNT, 4))
    predictor = mv.Predictor(checkpoint, score_threshold=0.5, max_detections=3, batch_size=4)
    found = predictor([of_opencv(clip)[index] for index in range(0, COUNT, 4)])
    counts = rows(tmp_path / "out/clip.avi.counts.csv")
    assert [int(row["frame"]) for row in counts] == list(range(0, COUNT, 4))
    told = rows(tmp_path / "out/clip.avi.csv")
    assert sum(map(len, found)) == len(told) > 0  # type: ignore[arg-type]
    for row, objects in zip(counts, found, strict=True):
        assert {name: int(row[name]) for name in ("ant", "bee") if int(row[name])} == objects.counts()  # type: ignore[union-attr]
        assert float(row["seconds"]) == pytest.approx(int(row["frame"]) / 10, abs=0.001)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_pictures_of_a_size_whatever_is_on_them(
    task: str, randomize: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    model = mv.create_model(task, width=0.35, names=("ant", "bee", "fly"), image_size=65)  # type: ignore[arg-type]
    randomize(model)
    mv.save(model, tmp_path / "model.safetensors")
    clip = written(tmp_path / "clip.mp4", "mp4", "libx264")
    assert (
        main(["predict", f"checkpoint={tmp_path}/model.safetensors", f"images={clip}", f"output={tmp_path}/out"]) == 0
    )
    (shape,) = {picture.shape for picture in of_opencv(tmp_path / "out/clip.mp4")}
    assert shape[0] > HEIGHT + 3 * 12  # three lines
    assert {row["name"] for row in rows(tmp_path / "out/clip.mp4.csv")} <= {"ant", "bee", "fly"}


def test_frames_as_photos_to_label(checkpoint: Path, tmp_path: Path) -> None:
    clip = written(tmp_path / "clip.mp4", "mp4", "libx264")
    given = (f"images={clip}", "frames=true", "every=10", "output_format=coco")
    assert predict(checkpoint, tmp_path / "out", *given) == 0
    names = ["clip_000000.jpg", "clip_000010.jpg", "clip_000020.jpg"]
    frames = tmp_path / "out/frames/clip.mp4"
    assert sorted(path.name for path in frames.iterdir()) == names
    for name in names:
        assert close(np.array(Image.open(frames / name)), pictures()[int(name[5:11])], 8)
    labels = json.loads((tmp_path / "out/labels.json").read_text())
    assert [image["file_name"] for image in labels["images"]] == names
    assert not (tmp_path / "out/clip.mp4").exists()


def test_a_camera_ends_at_ctrl_c_with_its_results(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, opened = str(written(tmp_path / "clip.avi", "avi", "mpeg4")), cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: opened({1: clip}[number]))
    asked: list[int] = []
    monkeypatch.setattr(interruption, "noted", lambda: asked.append(0) or int(len(asked) == 2))
    assert predict(checkpoint, tmp_path / "out", "images=1") == 0
    monkeypatch.undo()
    assert len(of_opencv(tmp_path / "out/camera1.mp4")) == len(rows(tmp_path / "out/camera1.counts.csv")) == 2


def test_a_file_that_breaks_off(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = written(tmp_path / "clip.avi", "avi", "mpeg4")
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 2 // 3])
    assert predict(checkpoint, tmp_path / "out", f"images={clip}") == 0
    there = len(of_opencv(clip))
    assert 0 < there < COUNT
    assert len(rows(tmp_path / "out/clip.avi.counts.csv")) == there
    assert f"clip.avi: {there} of {COUNT} frames could be read" in capsys.readouterr().err


def test_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(*arguments: str) -> str:
        assert predict(checkpoint, tmp_path / "out", *arguments) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    good, bad = written(tmp_path / "good.mp4", "mp4", "libx264"), tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    assert f"{bad}: cannot be opened as a video (Invalid data found" in line(f"images={bad}")
    assert "the results of the other 1 are in" in line(f"images=[{good},{bad}]")
    assert f"the video would replace the video {good}" in line(f"images={good}", f"output={tmp_path}")
    assert "frames=true makes photos of a video" in line(f"images={good}", "output_format=yolo")
    assert "camera 7 cannot be opened" in line("images=7")
    assert "cannot be opened as a video (Connection refused" in line("images=http://127.0.0.1:9/a.mp4")
    assert not list((tmp_path / "out").glob("bad*"))
    assert not list((tmp_path / "out").glob(".*"))

    def missing() -> None:
        raise ConfigError("videos need PyAV: pip install mnv2vision[video]")

    monkeypatch.setattr(module, "import_av", missing)
    assert "pip install mnv2vision[video]" in line(f"images={good}")


def test_a_stream_that_falls_silent_ends_with_its_results(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = written(tmp_path / "clip.ts", "mpegts", "mpeg4").read_bytes()
    ended = threading.Event()

    class Stalling(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            ended.wait()  # and sends nothing more

        def log_message(self, *arguments: object) -> None: ...

    monkeypatch.setattr(module, "_SILENCE", 2.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Stalling) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/live.ts"
        try:
            assert predict(checkpoint, tmp_path / "out", f"images={address}") == 0
        finally:
            ended.set()
            server.shutdown()
    (table,) = (tmp_path / "out").glob("*.counts.csv")
    assert 0 < len(rows(table)) < COUNT
    assert "frames could be read (it sent nothing for 2 seconds)" in capsys.readouterr().err
