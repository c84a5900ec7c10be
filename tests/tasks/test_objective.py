"""Losses of heads whose images are not all labelled, and of heads that are taught: against arithmetic of its own."""

import math
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing
from torch.nn import functional as F

import mnv2vision as mv
from mnv2vision.classification.training import ClassificationTraining
from mnv2vision.contracts import HeadSettings, Lesson, RawDetections
from mnv2vision.data.batch import Batch, collate
from mnv2vision.data.sample import Boxes, Sample
from mnv2vision.data.targets import BoxTargets
from mnv2vision.detection.imitation import imitation_loss
from mnv2vision.detection.loss import detection_loss
from mnv2vision.errors import ConfigError
from mnv2vision.models.tasks import TASKS
from mnv2vision.segmentation.loss import segmentation_loss
from mnv2vision.tasks.objective import Objective, over_all_processes
from mnv2vision.tasks.options import Distillation, Part, TrainingOptions
from mnv2vision.tasks.teachers import Teacher, TeacherModel, of_vision_model
from mnv2vision.training.distillation import Divergence

ANCHORS = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]])


def raw(logits: list[list[float]]) -> RawDetections:
    """Two anchors of an image, of which an object can match the first."""
    return RawDetections(torch.zeros(1, 2, 4), torch.tensor([logits]), ANCHORS)


def lesson(wanted: bool, classes: tuple[Tensor, Tensor] | None = None) -> Lesson:
    """Of one image."""
    batch = Batch(torch.zeros(1, 3, 8, 8), [0])
    return Lesson(Divergence(), torch.tensor([wanted]), batch, classes)


def no_objects() -> BoxTargets:
    return BoxTargets(
        torch.zeros(1, 1, 4), torch.zeros(1, 1).long(), torch.zeros(1, 1, dtype=torch.uint8), torch.tensor([True])
    )


# ---- what is not annotated is not negative ----


@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
def test_a_class_that_is_not_annotated_has_no_gradient_where_nothing_is(scores: Any) -> None:
    """An image of a data set that knows the first of two classes says nothing of the second."""
    logits = torch.tensor([[[0.3, -1.0, 2.0], [0.1, 0.5, -0.4]]], requires_grad=True)
    predicted = RawDetections(torch.zeros(1, 2, 4), logits, ANCHORS)
    loss = detection_loss(predicted, no_objects(), scores, torch.tensor([[False, True]]))
    loss.classes.backward()  # type: ignore[no-untyped-call]
    gradient = logits.grad
    assert gradient is not None
    assert (gradient[..., 1] > 0).all()  # the known class is absent
    if scores == "sigmoid":
        assert not gradient[..., [0, 2]].any()
        assert loss.classes.item() == pytest.approx(sum(math.log1p(math.exp(x)) for x in (-1.0, 0.5)), rel=1e-6)
    else:  # background or the other: both may rise, in the ratio they have
        assert (gradient[..., [0, 2]] < 0).all()
        shares = logits.detach().softmax(2)
        assert loss.classes.item() == pytest.approx(-(shares[..., 0] + shares[..., 2]).log().sum().item(), rel=1e-6)


@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
def test_all_known_is_as_before(scores: Any) -> None:
    predicted = raw([[0.3, -1.0, 2.0], [0.1, 0.5, -0.4]])
    whole = detection_loss(predicted, no_objects(), scores)
    known = detection_loss(predicted, no_objects(), scores, torch.tensor([[False, False]]))
    torch.testing.assert_close(known.classes, whole.classes)


def test_an_object_is_no_other_class() -> None:
    """Where an object is annotated, it is its class, and none of those that the data set does not know."""
    targets = BoxTargets(
        torch.tensor([[[0.0, 0.0, 0.5, 0.5]]]), torch.zeros(1, 1).long(), torch.ones(1, 1).byte(), torch.tensor([True])
    )
    predicted = raw([[0.3, -1.0, 2.0], [-9.0, -9.0, 9.0]])
    loss = detection_loss(predicted, targets, "softmax", torch.tensor([[False, True]]))
    hit = -torch.tensor([0.3, -1.0, 2.0]).log_softmax(0)[1]
    assert loss.classes.item() == pytest.approx(hit.item(), abs=1e-3)  # the other anchor costs nothing


def test_background_may_be_what_is_not_annotated() -> None:
    """arXiv 2002.04718, equation 3, by hand."""
    logits = torch.randn(1, 4, 1, 3, generator=torch.Generator().manual_seed(0))
    masks = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
    found = segmentation_loss(logits, masks, unknown=torch.tensor([[False, False, True, True]]))
    shares = logits.softmax(1)[0, :, 0]
    wanted = -((shares[0, 0] + shares[2, 0] + shares[3, 0]).log() + shares[1, 1].log()) / 2
    torch.testing.assert_close(found, wanted)
    known = segmentation_loss(logits, masks, unknown=torch.zeros(1, 4, dtype=torch.bool))
    torch.testing.assert_close(known, segmentation_loss(logits, masks))


def test_a_batch_without_a_single_label() -> None:
    model = mv.create_model("classification", width=0.35, num_classes=3, image_size=32)
    ((_, head),) = model.heads_in_use()
    logits = torch.randn(2, 3, requires_grad=True)
    batch = Batch(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), [0, 1], labels=torch.tensor([-1, -1]))
    (loss,) = ClassificationTraining(head).loss(logits, batch).values()
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


# ---- teachers ----


def test_a_detector_is_taught_by_the_hardest_anchors() -> None:
    """Of eight that show nothing to the teacher, those three that say most to the contrary to the student."""
    anchors = torch.rand(8, 4)
    teacher = RawDetections(torch.zeros(1, 8, 4), torch.tensor([-50.0, -50.0]).expand(1, 8, 2), anchors)
    logits = torch.full((1, 8, 2), -50.0)
    logits[0, :5, 1] = torch.tensor([1.0, 4.0, 2.0, 5.0, 3.0])
    student = RawDetections(torch.ones(1, 8, 4), logits, anchors)
    wanted = sum(math.log1p(math.exp(x)) for x in (3, 4, 5))
    assert imitation_loss(student, teacher, lesson(True)).item() == pytest.approx(wanted, rel=1e-5)


def test_a_detector_is_taught_by_sure_boxes() -> None:
    student = RawDetections(torch.full((1, 2, 4), 0.5), torch.zeros(1, 2, 2), ANCHORS)
    teacher = RawDetections(torch.zeros(1, 2, 4), torch.tensor([[[-5.0, 3.0], [5.0, -3.0]]]), ANCHORS)
    found = imitation_loss(student, teacher, lesson(True))
    target = teacher.class_logits.sigmoid().double()
    entropy = -(target * target.log() + (1 - target) * (1 - target).log()).sum()
    divergence = 4 * math.log(2) - entropy
    assert found.item() == pytest.approx(divergence.item() + 4 * 0.5 * 0.5**2, rel=1e-5)  # one sure anchor
    same = imitation_loss(teacher, teacher, lesson(True))
    assert same.item() == pytest.approx(0, abs=1e-5)
    assert imitation_loss(student, teacher, lesson(False)).item() == 0


def test_classes_of_a_detector_by_name() -> None:
    teacher = RawDetections(torch.zeros(1, 2, 4), torch.tensor([[[0.0, 7.0, 3.0], [5.0, 8.0, -3.0]]]), ANCHORS)
    student = RawDetections(torch.zeros(1, 2, 4), teacher.class_logits[..., [0, 2]], ANCHORS)
    assert imitation_loss(student, teacher, lesson(True, (torch.tensor([0]), torch.tensor([1])))).item() < 1e-5


def test_a_detector_with_other_anchors() -> None:
    other = RawDetections(torch.zeros(1, 2, 4), torch.zeros(1, 2, 2), ANCHORS + 0.1)
    with pytest.raises(ConfigError, match="the detector has 2 anchors for this input, of which not all are"):
        imitation_loss(other, raw([[0.0, 0.0], [0.0, 0.0]]), lesson(True))


def student_and_teacher(task: str, **options: Any) -> tuple[Any, Any]:
    common: dict[str, Any] = {"width": 0.35, "image_size": 64, **options}
    torch.manual_seed(0)
    names = ("background", "a", "b") if task == "segmentation" else ("a", "b", "c")
    return mv.create_model(task, names=names, **common), mv.create_model(task, names=names[::-1], **common).eval()


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(task: str) -> None:
    """Its teacher's classes are in another order, which does not matter; of images with labels it learns nothing."""
    student, teacher = student_and_teacher(task)
    ((name, head),) = student.heads_in_use()
    training = TASKS[task].training().create(head, _Named(head.config.names), HeadSettings())
    guide = Teacher(of_vision_model(teacher, name, task, "file"), head)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    answer, _ = guide(training, images)
    assert guide.classes is not None
    assert [labels.tolist() for labels in guide.classes] == [[0, 1, 2], [2, 1, 0]]
    if isinstance(answer, RawDetections):
        own: Any = RawDetections(answer.box_codes, answer.class_logits[..., [0, 3, 2, 1]], answer.anchors)
    else:
        own = answer[:, [2, 1, 0]]
    wanted = torch.tensor([True, False])
    about = Lesson(Divergence(), wanted, Batch(images, [0, 1]), guide.classes)
    assert training.imitate(own, answer, about).item() == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        other = student(student.preprocessing.normalize(images.flip(3)))
    assert training.imitate(other, answer, about._replace(wanted=~wanted)).item() != 0
    assert training.imitate(other, answer, about._replace(wanted=~wanted & wanted)).item() == 0


def test_teachers_that_cannot_teach() -> None:
    student, _ = student_and_teacher("classification")
    ((name, head),) = student.heads_in_use()

    def teach(model: Any) -> None:
        Teacher(of_vision_model(model, name, "classification", "file"), head)

    common: dict[str, Any] = {"width": 0.35, "image_size": 64}
    with pytest.raises(ConfigError, match="file: knows none of the head's 3 classes, such as a; it knows x, y, …"):
        teach(mv.create_model("classification", names=("x", "y"), **common))
    with pytest.raises(ConfigError, match="file: has 2 classes, the head 3, and not both have names"):
        teach(mv.create_model("classification", num_classes=2, **common))
    with pytest.raises(ConfigError, match="is a model for detection, not for classification"):
        teach(mv.create_model("detection", names=("a",), **common))
    kinds = {key: {"task": "classification", "names": ("a", "b", "c")} for key in ("x", "y")}
    with pytest.raises(ConfigError, match="which of its heads x, y is meant"):
        teach(mv.create_model(kinds, **common))
    detector, softmax = (
        mv.create_model("detection", names=("a",), scores=scores, **common) for scores in ("sigmoid", "softmax")
    )
    with pytest.raises(ConfigError, match="file: scores by softmax, the head by sigmoid"):
        Teacher(of_vision_model(softmax, "detection", "detection", "file"), next(detector.heads_in_use())[1])


def test_common_classes_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Of a teacher that knows two of three: what both say of those two."""
    student, _ = student_and_teacher("classification")
    ((name, head),) = student.heads_in_use()
    teacher = mv.create_model("classification", names=("c", "z", "a"), width=0.35, image_size=64)
    with caplog.at_level("INFO"):
        guide = Teacher(of_vision_model(teacher, name, "classification", "file"), head)
    assert "file: knows 2 of the head's 3 classes, by name; 1 of its own are left out" in caplog.text
    about = Lesson(Divergence(), torch.tensor([True]), Batch(torch.zeros(1, 3, 64, 64), [0]), guide.classes)
    own, answer = torch.tensor([[1.0, 9.0, 2.0]]), torch.tensor([[0.5, 9.0, -1.0]])
    wanted = F.kl_div(own[:, [0, 2]].log_softmax(1), answer[:, [2, 0]].softmax(1), reduction="sum")
    found = TASKS["classification"].training().create(head, _Named(head.config.names), HeadSettings())
    torch.testing.assert_close(found.imitate(own, answer, about), wanted)


def test_pixels_that_a_mask_leaves_out() -> None:
    """They teach nothing where the image has a mask; an image without one teaches everywhere."""
    student, _ = student_and_teacher("segmentation")
    ((_, head),) = student.heads_in_use()
    training = TASKS["segmentation"].training().create(head, _Named(head.config.names), HeadSettings())
    own, answer = torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    answer[:, 0, 0, 0] = 5  # the only cell to learn of
    masks = torch.full((2, 64, 64), 255, dtype=torch.uint8)
    masks[0, 32:] = 0  # the upper half is void
    batch = Batch(torch.zeros(2, 3, 64, 64), [0, 1], masks=masks, has_mask=torch.tensor([True, False]))
    divergence = F.kl_div(torch.zeros(3).log_softmax(0), answer[0, :, 0, 0].softmax(0), reduction="sum")
    for wanted, share in (([True, False], 0), ([False, True], 1 / 4), ([True, True], 1 / 6)):
        found = training.imitate(own, answer, Lesson(Divergence(), torch.tensor(wanted), batch))
        torch.testing.assert_close(found, divergence * share)


def test_the_statistics_of_a_batch() -> None:
    """With them, a teacher's answer on an image depends on the others; what it has learned stays as it is."""
    student, teacher = student_and_teacher("classification")
    ((name, head),) = student.heads_in_use()
    training, options = ClassificationTraining(head), Distillation(batch_statistics=True)
    before = {key: value.clone() for key, value in teacher.state_dict().items() if "running" in key}
    guide = Teacher(of_vision_model(teacher, name, "classification", "file"), head, options)
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    images[2:] //= 4
    (all_four, _), (two, _) = guide(training, images), guide(training, images[:2])
    assert not torch.allclose(all_four[:2], two, atol=1e-3)  # type: ignore[index]
    assert before.keys() > set()
    assert all(torch.equal(value, teacher.state_dict()[key]) for key, value in before.items())
    fixed = Teacher(of_vision_model(teacher, name, "classification", "file"), head)
    (all_four, _), (two, _) = fixed(training, images), fixed(training, images[:2])
    torch.testing.assert_close(all_four[:2], two, atol=1e-4, rtol=1e-4)  # type: ignore[index]


def test_teacher_and_student_see_the_same_mixture() -> None:
    """Mixup comes before both; each normalises in its own way."""
    student, _ = student_and_teacher("classification")
    ((name, head),) = student.heads_in_use()
    seen: dict[str, Tensor] = {}

    class Watching(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen["teacher"] = images
            return torch.zeros(len(images), 3)

    def run(images: Tensor) -> Tensor:
        seen["student"] = images
        return torch.zeros(len(images), 3, requires_grad=True)

    theirs = replace(student.preprocessing, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    guide = Teacher(TeacherModel("x", Watching(), head.config, theirs), head)
    training = ClassificationTraining(head, mixup=0.5)
    objective = Objective(student, [Part("", {name: training})], TrainingOptions(), {name: guide})
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    torch.manual_seed(1)
    objective(run, collate([Sample(image, i, "", label=i) for i, image in enumerate(images)], []))
    pixels = [
        seen[who] * torch.tensor(own.std).view(3, 1, 1) + torch.tensor(own.mean).view(3, 1, 1)
        for who, own in (("student", student.preprocessing), ("teacher", theirs))
    ]
    torch.testing.assert_close(pixels[0], pixels[1], atol=1e-5, rtol=0)
    plain = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    assert not torch.allclose(pixels[0], plain, atol=1e-3)
    torch.testing.assert_close(pixels[0].sum(0), plain.sum(0), atol=1e-4, rtol=0)  # of two images mixed with each other


@pytest.mark.parametrize("mixing", [{"mixup": 0.5}, {"cutmix": 0.5}])
def test_mixtures_with_photos_without_labels(mixing: dict[str, float]) -> None:
    """All images are mixed, and the labels say something of those alone that have one and are learned from."""
    student, teacher = student_and_teacher("classification")
    ((name, head),) = student.eval().heads_in_use()
    guide = Teacher(of_vision_model(teacher, name, "classification", "file"), head)
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)

    def found(labels: list[int | None], learned: bool) -> tuple[Tensor, float]:
        seen: list[Tensor] = []

        def run(pixels: Tensor) -> Tensor:
            seen.append(pixels)
            return 3 * torch.eye(4, 3)

        training = ClassificationTraining(head, **mixing)
        parts = [Part("a", {name: training}, learned=learned), Part("b", {}, learned=False)]
        objective = Objective(student, parts, TrainingOptions(), {name: guide})
        samples = [Sample(images[i], i, "", label=label, part=i // 2) for i, label in enumerate(labels)]
        torch.manual_seed(2)
        loss = objective(run, collate(samples, []))
        return seen[0], float(loss.parts["labels"].detach())

    pixels, by_labels = found([0, 1, None, None], True)
    plain = student.preprocessing.normalize(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert all(not torch.allclose(mixed, own, atol=1e-2) for mixed, own in zip(pixels, plain, strict=True))
    assert by_labels > 0
    assert found([1, 0, None, None], True)[1] != by_labels
    assert found([0, 1, None, None], False)[1] == 0


def test_features_like_the_teachers() -> None:
    """The adapters get gradients and are not in the model; what is compared is their output with the teacher's."""
    torch.manual_seed(0)
    names = ("a", "b", "c")
    student = mv.create_model("classification", names=names, width=0.35, image_size=64)
    teacher = mv.create_model("classification", names=names, width=0.5, image_size=64).eval()
    keys = set(student.state_dict())
    ((name, head),) = student.heads_in_use()
    options = Distillation(features=("block1.expand", "block2"))
    guide = Teacher(of_vision_model(teacher, name, "classification", "file"), head, options)
    objective = Objective(
        student.eval(),
        [Part("", {name: ClassificationTraining(head)})],
        TrainingOptions(distillation=options),
        {name: guide},
    )
    assert set(student.state_dict()) == keys
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    batch = collate([Sample(image, 0, "", label=0), Sample(image[::-1], 1, "", label=1)], [])
    found = objective(student, batch)
    found.total.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in objective.adapters.parameters())
    with torch.no_grad():
        own, goal = (model.backbone(model.preprocessing.normalize(batch.images)) for model in (student, teacher))
        wanted = F.kl_div(
            student(student.preprocessing.normalize(batch.images)).log_softmax(1),
            teacher(teacher.preprocessing.normalize(batch.images)).softmax(1),
            reduction="batchmean",
        )
        for index, tap in enumerate(options.features):
            adapter = objective.adapters[name].adapters[index]  # type: ignore[union-attr,index]
            mean, var = goal[tap].mean((0, 2, 3), keepdim=True), goal[tap].var((0, 2, 3), keepdim=True, correction=0)
            wanted += (adapter(own[tap]) - (goal[tap] - mean) / (var + 1e-5).sqrt()).square().mean()
    torch.testing.assert_close(found.parts["taught"], wanted, atol=1e-3, rtol=1e-3)
    unknown = Distillation(features=("block99",))
    with pytest.raises(
        ConfigError, match=r"distill\.features: of the student: unknown taps \['block99'\]; valid: stem,"
    ):
        Objective(student, [], TrainingOptions(distillation=unknown), {name: guide})


@pytest.mark.parametrize("served", [True, False])
def test_a_teacher_is_asked_where_labels_are_lacking(served: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it costs no pass, and every parameter has its gradient of the labels."""
    student, teacher = student_and_teacher("classification")
    ((name, head),) = student.eval().heads_in_use()  # without dropout
    guide, asked, ask = Teacher(of_vision_model(teacher, name, "classification", "file"), head), [], Teacher.__call__
    monkeypatch.setattr(Teacher, "__call__", lambda *given: asked.append(1) or ask(*given))
    parts = [
        Part("a", {name: ClassificationTraining(head)}),
        Part("b", {name: ClassificationTraining(head)} if served else {}),
    ]
    options = TrainingOptions(distillation=Distillation(images="unlabelled"))
    objective = Objective(student, parts, options, {name: guide})
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    labelled = collate([Sample(image, i, "", label=i, part=i) for i in range(2)], [])
    pixels = student.preprocessing.normalize(labelled.images)
    found = objective(student, labelled)
    assert found.taught == {name: not served}
    assert len(asked) == (0 if served else 1)
    if served:
        torch.testing.assert_close(found.total, F.cross_entropy(student(pixels), torch.tensor([0, 1])))
        assert found.parts["taught"] == 0
    found.total.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in student.parameters())
    some = collate([Sample(image, 0, "", label=0), Sample(image, 1, "", part=1)], [])
    assert objective(student, some).taught == {name: True}


class _Named:
    targets = frozenset[str]()

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = self.mask_names = names

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Sample:
        raise IndexError(index)


# ---- several heads ----


def test_the_losses_of_several_heads_on_data_of_their_own() -> None:
    """Each is that of the head alone on its own images; the sum has their weights."""
    heads = {
        "kind": {"task": "classification", "names": ("a", "b")},
        "color": {"task": "classification", "names": ("x", "y", "z")},
    }
    model = mv.create_model(heads, width=0.35, image_size=32)
    trainings = {name: ClassificationTraining(head) for name, head in model.heads_in_use()}
    parts = [Part("one", {"kind": trainings["kind"]}), Part("two", {"color": trainings["color"]})]
    objective = Objective(model, parts, TrainingOptions(weights={"color": 0.5}))
    image = np.zeros((32, 32, 3), np.uint8)
    samples = [Sample(image, i, "", label=label, part=part) for i, (label, part) in enumerate([(1, 0), (2, 1), (0, 1)])]
    batch = collate(samples, [])
    logits: dict[str, Tensor] = {
        "kind": torch.randn(3, 2, requires_grad=True),
        "color": torch.randn(3, 3, requires_grad=True),
    }
    found = objective(lambda _: dict(logits), batch)
    kind = F.cross_entropy(logits["kind"][:1], torch.tensor([1]))
    color = F.cross_entropy(logits["color"][1:], torch.tensor([2, 0]))
    torch.testing.assert_close(found.heads, {"kind": kind, "color": color})
    torch.testing.assert_close(found.total, kind + 0.5 * color)
    found.total.backward()  # type: ignore[no-untyped-call]
    assert logits["kind"].grad is not None
    assert not logits["kind"].grad[1:].any()


def test_every_parameter_has_a_gradient_though_a_head_has_no_label() -> None:
    """As DDP expects without find_unused_parameters."""
    names = {"classification": ("a", "e"), "detection": ("b",), "segmentation": ("c", "d")}
    heads: dict[str, dict[str, object]] = {name: {"names": own} for name, own in names.items()}
    model = mv.create_model(heads, width=0.35, image_size=64)
    trainings = {
        name: TASKS[head.config.task].training().create(head, _Named(head.config.names), HeadSettings())
        for name, head in model.heads_in_use()
    }
    objective = Objective(model, [Part("", trainings)], TrainingOptions())
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for sample in (
        Sample(image, 0, "", label=0),
        Sample(image, 0, "", boxes=Boxes.of([(0, 0, 32, 32)], [0])),
        Sample(image, 0, "", mask=np.zeros((64, 64), np.uint8)),
    ):
        model.zero_grad()
        batch = collate([sample, sample], [])
        found = objective(model, batch, compare=True)
        found.total.backward()  # type: ignore[no-untyped-call]
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert sum(loss.item() > 0 for loss in found.heads.values()) == 1
        assert set(found.cosines) == {
            "cosine/classification-detection",
            "cosine/classification-segmentation",
            "cosine/detection-segmentation",
        }


LOSSES = {"a": (2.0, 5.0), "b": (7.0, 0.0), "c": (0.0, 0.0)}
LABELLED = {"a": (1.0, 3.0), "b": (4.0, 0.0), "c": (0.0, 0.0)}


def _of_a_process(rank: int, folder: str, patience: float) -> None:
    limit = timedelta(seconds=patience)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=limit)
    losses = {name: torch.tensor(values[rank]) for name, values in LOSSES.items()}
    labelled = {name: torch.tensor(counts[rank]) for name, counts in LABELLED.items()}
    torch.save(over_all_processes(losses, labelled), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_the_mean_is_over_the_labelled_images_of_all_processes(tmp_path: Path, patience: float) -> None:
    """What DDP makes of the processes' losses, their mean, is that of the images: a process may have none."""
    multiprocessing.spawn(_of_a_process, args=(str(tmp_path), patience), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    means = {name: (found[0][name] + found[1][name]).item() / 2 for name in LOSSES}
    assert means == pytest.approx({"a": (1 * 2 + 3 * 5) / 4, "b": 7.0, "c": 0.0})
