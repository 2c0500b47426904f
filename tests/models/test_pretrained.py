"""Weight files: three formats, one clear sentence for each fault, no code run, and the real ImageNet weights."""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from mlcm_jax import models
from mlcm_jax.errors import InputError
from mlcm_jax.models import pretrained

REAL = Path(__file__).parents[3] / "shared/data/pretrained/mobilenet_v2-b0353104.npz"
TINY = {"depths": (1, 1), "width": 0.125, "num_landmarks": 5}


def _tiny(seed=0, **options):
    return models.create("resnet18", rngs=nnx.Rngs(seed), **(TINY | options))


def _arrays() -> dict[str, np.ndarray]:
    """Random weights of `_tiny` with torchvision's names and layouts, listed by hand."""
    rng = np.random.default_rng(0)
    arrays = {}

    def conv_norm(conv, norm, cout, cin, size):
        arrays[f"{conv}.weight"] = rng.normal(size=(cout, cin, size, size)).astype(np.float32)
        for suffix in ("weight", "bias", "running_mean", "running_var"):
            arrays[f"{norm}.{suffix}"] = rng.uniform(0.5, 1.5, cout).astype(np.float32)
        arrays[f"{norm}.num_batches_tracked"] = np.array(7, np.int64)

    conv_norm("conv1", "bn1", 8, 3, 7)
    conv_norm("layer1.0.conv1", "layer1.0.bn1", 8, 8, 3)
    conv_norm("layer1.0.conv2", "layer1.0.bn2", 8, 8, 3)
    conv_norm("layer2.0.conv1", "layer2.0.bn1", 16, 8, 3)
    conv_norm("layer2.0.conv2", "layer2.0.bn2", 16, 16, 3)
    conv_norm("layer2.0.downsample.0", "layer2.0.downsample.1", 16, 8, 1)
    arrays["fc.weight"] = rng.normal(size=(1000, 16)).astype(np.float32)
    arrays["fc.bias"] = rng.normal(size=1000).astype(np.float32)
    return arrays


class _Global:
    """Pickles as the bare name module.name, whether or not it can be imported."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class _TorchPickler(pickle._Pickler):
    """Writes numpy arrays as torch.save writes tensors: a call of _rebuild_tensor_v2 on a persistent storage."""

    dispatch = pickle._Pickler.dispatch.copy()
    names = {"float32": "FloatStorage", "int64": "LongStorage", "float16": "HalfStorage"}  # noqa: RUF012

    def __init__(self, file):
        super().__init__(file, protocol=2)
        self.storages = []
        self.view = ()

    def save_global_name(self, item):
        self.write(b"c" + item.module.encode() + b"\n" + item.name.encode() + b"\n")

    def save_array(self, array):
        key = str(len(self.storages))
        self.storages.append(array.tobytes())
        self.save_global_name(_Global("torch._utils", "_rebuild_tensor_v2"))
        storage = ("storage", _Global("torch", self.names[str(array.dtype)]), key, "cpu", array.size, *self.view)
        strides = tuple(s // array.itemsize for s in array.strides)
        self.write(pickle.MARK)
        self.save(storage, save_persistent_id=False)
        self.write(pickle.BINPERSID)
        for item in (0, array.shape, strides, False):
            self.save(item)
        self.save_reduce(OrderedDict, ())
        self.write(pickle.TUPLE + pickle.REDUCE)

    dispatch[_Global] = save_global_name
    dispatch[np.ndarray] = save_array


def _write_pth(path, content, *, data=None, truncate=0):
    """Writes a .pth of `content`; `data` replaces the pickle; `truncate` is how many bytes every storage lacks."""
    buffer = io.BytesIO()
    pickler = _TorchPickler(buffer)
    pickler.dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue() if data is None else data)
        archive.writestr("archive/byteorder", "little")
        for key, raw in enumerate(pickler.storages):
            archive.writestr(f"archive/data/{key}", raw[: len(raw) - truncate])


def _write_old_pth(path, content, *, truncate=0):
    """Writes a .pth in the format before zip archives; `truncate` is a number of bytes to cut off at the end."""
    with path.open("wb") as file:
        for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(head, file, protocol=2)
        pickler = _TorchPickler(file)
        pickler.view = (None,)
        pickler.dump(content)
        pickle.dump([str(key) for key in range(len(pickler.storages))], file, protocol=2)
        for raw, array in zip(pickler.storages, content.values(), strict=True):
            file.write(array.size.to_bytes(8, "little") + raw)
        file.truncate(file.tell() - truncate)


def _write(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        save_file(arrays, path)
    elif path.suffix == ".pt":
        _write_old_pth(path, OrderedDict(arrays))
    else:
        _write_pth(path, OrderedDict(arrays))
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth", ".pt"])
def test_every_format_fills_the_backbone(tmp_path, suffix):
    arrays = _arrays()
    path = _write(tmp_path / f"weights{suffix}", arrays)
    backbone = _tiny(weights=path).backbone
    np.testing.assert_array_equal(backbone.stem.conv.kernel[...], arrays["conv1.weight"].transpose(2, 3, 1, 0))
    block = backbone.stages[1][0]
    kernel = arrays["layer2.0.conv2.weight"]
    np.testing.assert_array_equal(block.convs[1].conv.kernel[0, 2, 5], kernel[:, 5, 0, 2])
    np.testing.assert_array_equal(block.shortcut.norm.mean[...], arrays["layer2.0.downsample.1.running_mean"])
    np.testing.assert_array_equal(block.shortcut.norm.var[...], arrays["layer2.0.downsample.1.running_var"])
    np.testing.assert_array_equal(block.convs[0].norm.scale[...], arrays["layer2.0.bn1.weight"])
    np.testing.assert_array_equal(block.convs[0].norm.bias[...], arrays["layer2.0.bn1.bias"])


def test_torch_itself_agrees_where_it_is_installed(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not a dependency")
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {"whole": base, "view": base.t()[1:3], "half": base.half(), "count": torch.tensor(3)}
    torch.save(tensors, tmp_path / "t.pth")
    for name, array in pretrained.read(tmp_path / "t.pth").items():
        np.testing.assert_array_equal(array, tensors[name].numpy())


def _fault(name):
    arrays = _arrays()
    if name == "missing":
        del arrays["layer1.0.bn2.bias"]
    if name == "extra":
        arrays["layer3.0.conv1.weight"] = np.zeros((32, 16, 3, 3), np.float32)
    if name == "shape":
        arrays["layer2.0.conv1.weight"] = np.zeros((16, 8, 5, 5), np.float32)
    if name == "nan":
        arrays["bn1.running_var"][3] = np.nan
    return arrays


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", "no array 'layer1.0.bn2.bias'"),
        ("extra", "'layer3.0.conv1.weight' that this backbone does not have"),
        ("shape", r"'layer2.0.conv1.weight' has the shape \[16, 8, 5, 5\]"),
        ("nan", "'bn1.running_var' does not hold finite numbers only"),
    ],
)
def test_contents_that_do_not_fit_name_the_array_and_change_nothing(tmp_path, fault, words):
    path = _write(tmp_path / "w.npz", _fault(fault))
    backbone = _tiny().backbone
    before = np.asarray(backbone.stem.conv.kernel[...])
    with pytest.raises(InputError, match=words) as caught:
        pretrained.load(backbone, path)
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(backbone.stem.conv.kernel[...], before)


@pytest.mark.parametrize("options", [{"width": 0.25}, {"stem": "small"}, {"stem": "strided"}])
def test_other_width_or_stem_is_reported(tmp_path, options):
    path = _write(tmp_path / "w.npz", _arrays())
    with pytest.raises(InputError, match="width=1 and stem='imagenet'"):
        _tiny(weights=path, **options)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth", ".h5"])
def test_files_of_another_kind(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    with pytest.raises(InputError, match="There is no weight file"):
        pretrained.read(path)
    for content in (b"", b"not weights at all", b"PK\x03\x04 half an archive"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"w\.(npz|safetensors|pth|h5) (is|has)") as caught:
            pretrained.read(path)
        assert "\n" not in str(caught.value)


def test_a_truncated_file_of_every_format(tmp_path):
    for suffix in (".npz", ".safetensors", ".pth", ".pt"):
        path = _write(tmp_path / f"w{suffix}", _arrays())
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError, match="w"):
            pretrained.read(path)


class _Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".npz"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, suffix):
    mark, path = tmp_path / "ran", tmp_path / f"evil{suffix}"
    evil = {"conv1.weight": _Evil(mark)}
    if suffix == ".pth":
        _write_pth(path, {}, data=pickle.dumps(evil, protocol=2))
    elif suffix == ".pt":
        path.write_bytes(pickle.dumps(evil, protocol=2))
    else:
        np.savez(path, evil=np.array([_Evil(mark)], object))
    with pytest.raises(InputError, match="damaged" if suffix == ".npz" else "refused to unpickle"):
        pretrained.read(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(evil))  # an ordinary unpickler does run the code
    assert mark.exists()


@pytest.mark.parametrize("name", [("torch._utils", "_rebuild_parameter"), ("builtins", "eval"), ("torch", "load")])
def test_other_names_are_refused(tmp_path, name):
    module, attribute = name
    data = f"\x80\x02c{module}\n{attribute}\n.".encode("latin1")
    _write_pth(tmp_path / "w.pth", {}, data=data)
    with pytest.raises(InputError, match=f"refused to unpickle {module}.{attribute}"):
        pretrained.read(tmp_path / "w.pth")


def test_damaged_pth(tmp_path):
    path = tmp_path / "w.pth"
    for data in (b"", b"\x80\x02.", b"\x80\x02}q\x00", b"\x80\x02X\x05\x00\x00\x00abc", b"\x80\x02K\x01."):
        _write_pth(path, {}, data=data)
        with pytest.raises(InputError, match="state"):
            pretrained.read(path)
    _write_pth(path, _arrays(), truncate=4)
    with pytest.raises(InputError, match="damaged"):
        pretrained.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("something.txt", "else")
    with pytest.raises(InputError, match=r"without PyTorch's data\.pkl"):
        pretrained.read(path)


def test_the_classifier_may_be_missing(tmp_path):
    arrays = {k: v for k, v in _arrays().items() if not k.startswith("fc.")}
    backbone = _tiny(weights=_write(tmp_path / "w.npz", arrays)).backbone
    np.testing.assert_array_equal(backbone.stem.norm.mean[...], arrays["bn1.running_mean"])


def _preprocess(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> float32 [1, 224, 224, 3] in [0, 1]: the short side to 256, the centre crop of 224."""
    import cv2

    scale = 256 / min(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
    return image[None, top : top + 224, left : left + 224].astype(np.float32) / 255.0


@pytest.mark.skipif(not REAL.is_file(), reason=f"the ImageNet weights {REAL.name} are not beside the repository")
def test_real_weights_classify_espresso_and_an_egyptian_cat():
    skimage = pytest.importorskip("skimage", reason="scikit-image ships the images")
    cv2 = pytest.importorskip("cv2")
    folder = Path(skimage.__file__).parent / "data"
    files = [folder / "coffee.png", folder / "chelsea.png"]
    if not all(file.is_file() for file in files):
        pytest.skip("this scikit-image ships without coffee.png and chelsea.png")
    model = models.create("mobilenet_v2", num_landmarks=5, weights=REAL, rngs=nnx.Rngs(0))
    x = np.concatenate([_preprocess(cv2.imread(str(file))[..., ::-1]) for file in files])
    arrays = pretrained.read(REAL)
    features = nnx.jit(lambda model, x: model.backbone(x))(model, jnp.asarray(x))
    logits = np.asarray(features).mean((1, 2)) @ arrays["classifier.1.weight"].T + arrays["classifier.1.bias"]
    assert logits.argmax(-1).tolist() == [967, 285]
    probability = np.exp(logits - logits.max(-1, keepdims=True))
    probability /= probability.sum(-1, keepdims=True)
    assert probability[0, 967] > 0.9 and probability[1, 285] > 0.5
