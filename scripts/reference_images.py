"""Writes crates/data/golden/images/: files of images, and what transformers' and timm's processors make of them.

    python scripts/reference_images.py                    # writes cases.safetensors
    python scripts/reference_images.py --check PREPROCESS  # compares, see below

Needs requirements.txt, and timm, torchvision and pillow of the versions in crates/data/golden/images/README.toml. Files are
made from a seed. transformers' processors are those of its Pillow backend, and take what its `load_image` gives; timm's is the
transform that `create_transform` builds from `pretrained_cfg`, and takes the same image.

cases.safetensors holds `<file>.file` (u8, the bytes of a file), `<file>/<processor>` (u8 [height, width, 3], after resizing and
cropping, before scaling) and `table/<processor>` (f32 [3, 256], the number of each byte). Its metadata says what each
processor's configuration is.

--check runs PREPROCESS (`cargo build --release -p taper-data --example preprocess`) on those files, on more and larger ones, and on
the images in $TAPER_TEST_DATA if that is set; it prints the largest differences, and exits with 1 if one is above 1/255.
"""

import argparse
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from safetensors.numpy import load_file, save_file

TARGET = Path(__file__).resolve().parent.parent / "crates/data/golden/images"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def vit(size, resample, **more):
    return {"image_processor_type": "ViTImageProcessor", "size": size, "resample": resample, **more}


def bit(size, crop, resample, **more):
    crop = {"height": crop, "width": crop}
    return {"image_processor_type": "BitImageProcessor", "size": size, "crop_size": crop, "resample": resample, **more}


def timm_config(size, crop_pct, crop_mode, interpolation, **more):
    given = {"input_size": [3, *size], "crop_pct": crop_pct, "crop_mode": crop_mode, "interpolation": interpolation}
    return {"pretrained_cfg": given | more}


PROCESSORS = {
    "vit-bilinear": vit({"height": 32, "width": 32}, 2),
    "vit-old": {"feature_extractor_type": "ViTFeatureExtractor", "size": 24, "image_mean": MEAN, "image_std": STD},
    "vit-wide": vit({"height": 20, "width": 44}, 1, do_rescale=False, do_normalize=False),
    "vit-nearest": vit(29, 0, rescale_factor=0.007843137254901961, image_mean=0.25, image_std=0.75),
    "vit-plain": vit(16, 3, do_normalize=False),
    "vit-box": vit({"height": 31, "width": 17}, 4),
    "vit-hamming": vit({"height": 17, "width": 31}, 5),
    "vit-crop": vit(48, 2, do_resize=False, do_center_crop=True, crop_size=[25, 34]),
    "deit": {"image_processor_type": "DeiTImageProcessor", "size": 36, "crop_size": 32},
    "bit": bit({"shortest_edge": 36}, 32, 3),
    "bit-int": bit(20, 23, 1, do_convert_rgb=True, image_mean=MEAN, image_std=STD),
    "timm-bicubic": timm_config((32, 32), 0.875, "center", "bicubic", mean=MEAN, std=STD),
    "timm-bilinear": timm_config((31, 31), 0.9, "center", "bilinear"),
    "timm-squash": timm_config((28, 33), 0.95, "squash", "bicubic", mean=[0.5] * 3, std=[0.5] * 3),
    "timm-lanczos": timm_config((24, 24), 1.0, "center", "lanczos"),
}


def processor_of(config):
    """Two functions of a Pillow image: u8 [height, width, 3] before scaling, and f32 [3, height, width]."""
    if "pretrained_cfg" in config:
        from timm.data import create_transform, resolve_data_config

        transform = create_transform(**resolve_data_config({}, pretrained_cfg=config["pretrained_cfg"]), is_training=False)
        *fit, to_tensor, normalize = transform.transforms

        def fitted(image):
            for step in fit:
                image = step(image)
            return np.array(image)

        return fitted, lambda image: transform(image).numpy(), lambda image: normalize(to_tensor(image)).numpy()
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
    from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    name = config.get("image_processor_type", config.get("feature_extractor_type"))
    kinds = {"ViT": ViTImageProcessorPil, "DeiT": DeiTImageProcessorPil, "Bit": BitImageProcessorPil}
    kind = next(kind for prefix, kind in kinds.items() if name.startswith(prefix))
    processor = kind(**{key: value for key, value in config.items() if not key.endswith("_type")})

    def run(image, **more):
        # a narrow image could be taken for one with its channels first
        return processor(image, return_tensors="np", **more)["pixel_values"][0]

    def fitted(image):
        return np.moveaxis(run(image, do_rescale=False, do_normalize=False), 0, -1)

    def scaled(image):
        return run(image, do_resize=False, do_center_crop=False).astype(np.float32)

    return fitted, lambda image: run(image).astype(np.float32), scaled


def load(data):
    """As transformers' load_image does it, from bytes."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def picture(height, width, seed, detail=9):
    """Smooth colours with some hard edges."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // detail), max(2, width // detail), 3), dtype=np.uint8)
    pixels = np.array(Image.fromarray(coarse).resize((width, height), Image.BICUBIC))
    pixels[height // 3 : height // 2, width // 4 : width // 2] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def noise(height, width, seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encode(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows, width, depth, colour, extra=b"", interlaced=False):
    """A PNG file that Pillow cannot write: `rows` are packed samples; of interlaced files those of all passes."""
    header = struct.pack(">IIBBBBB", width, interlaced or len(rows), depth, colour, 0, 0, bool(interlaced))
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def adam7(pixels):
    """Rows of the seven passes over u8 [height, width, 3]."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [pixels[y::down, x::right] for y, x, down, right in passes]
    return [row.tobytes() for part in parts if part.size for row in part]


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


def pngs():
    rgb, rng = picture(41, 53, 1), np.random.default_rng(2)
    alpha = rgb.copy()
    alpha.putalpha(Image.fromarray(rng.integers(0, 256, (41, 53), dtype=np.uint8)))
    palette = rgb.quantize(17)
    files = {
        "png-rgb": encode(rgb, "PNG"),
        "png-rgba": encode(alpha, "PNG"),
        "png-l": encode(rgb.convert("L"), "PNG"),
        "png-la": encode(alpha.convert("LA"), "PNG"),
        "png-1": encode(rgb.convert("1"), "PNG"),
        "png-p": encode(palette, "PNG"),
        "png-p-clear": encode(palette, "PNG", transparency=3),
        "png-p-alpha": encode(palette, "PNG", transparency=bytes(range(0, 255, 15))),
        "png-p-2bit": encode(rgb.quantize(4), "PNG", bits=2),
        "png-l-clear": encode(rgb.convert("L"), "PNG", transparency=100),
        "png-rgb-clear": encode(rgb, "PNG", transparency=rgb.getpixel((15, 15))),
        "png-i16": encode(Image.fromarray(rng.integers(0, 400, (19, 23), dtype=np.uint16)), "PNG"),
    }
    wide = rng.integers(0, 65536, (9, 13 * 4), dtype=np.uint16).astype(">u2")
    for name, colour, channels in (("rgb16", 2, 3), ("la16", 4, 2), ("rgba16", 6, 4)):
        files[f"png-{name}"] = png([row[: 13 * channels].tobytes() for row in wide], 13, 16, colour)
    grey = rng.integers(0, 256, (11, 7), dtype=np.uint8)
    files["png-l-2bit-clear"] = png([row.tobytes() for row in grey], 27, 2, 0, chunk(b"tRNS", b"\0\2"))
    files["png-rgb16-clear"] = png([bytes(6) + row[:36].tobytes() for row in wide], 13, 16, 2, chunk(b"tRNS", bytes(6)))
    files["png-l-2bit"] = png([row.tobytes() for row in grey], 27, 2, 0)
    files["png-l-4bit"] = png([row.tobytes() for row in grey], 13, 4, 0)
    pixels = np.array(picture(21, 18, 3))
    files["png-interlaced"] = png(adam7(pixels), 18, 8, 2, interlaced=21)
    files["png-exif-6"] = encode(picture(14, 25, 4), "PNG", exif=exif(6))
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<rdf tiff:Orientation="8"/>')
    files["png-xmp-8"] = encode(picture(14, 25, 5), "PNG", pnginfo=info)
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n      26\n" + exif(3).hex() + "\n", zip=True)
    files["png-profile-3"] = encode(picture(14, 25, 6), "PNG", pnginfo=info)
    return files


def jpegs():
    files = {}
    for quality, sampling in ((10, "4:2:0"), (50, "4:2:2"), (75, "4:4:4"), (90, "4:2:0"), (100, "4:4:4"), (95, "4:2:2")):
        image = picture(43, 61, quality)
        name = f"jpeg-{quality}-{sampling.replace(':', '')}"
        files[name] = encode(image, "JPEG", quality=quality, subsampling=sampling)
        files[f"{name}-progressive"] = encode(image, "JPEG", quality=quality, subsampling=sampling, progressive=True)
    files["jpeg-l"] = encode(picture(43, 61, 7).convert("L"), "JPEG", quality=80)
    files["jpeg-cmyk"] = encode(picture(29, 31, 8).convert("CMYK"), "JPEG", quality=90)
    files["jpeg-rgb"] = encode(picture(29, 31, 9), "JPEG", quality=90, keep_rgb=True)
    files["jpeg-noise"] = encode(noise(24, 23, 10), "JPEG", quality=85)
    files["jpeg-restart"] = encode(picture(43, 61, 11), "JPEG", quality=85, restart_marker_rows=1, optimize=True)
    for orientation in range(1, 9):
        files[f"jpeg-exif-{orientation}"] = encode(picture(17, 33, 11), "JPEG", quality=85, exif=exif(orientation))
    files["jpeg-xmp-5"] = encode(picture(17, 33, 12), "JPEG", xmp=b"<a><tiff:Orientation>5</tiff:Orientation></a>")
    return files


def webps():
    rgb = picture(39, 47, 13)
    alpha = rgb.copy()
    alpha.putalpha(Image.fromarray(np.random.default_rng(14).integers(0, 256, (39, 47), dtype=np.uint8)))
    files = {f"webp-{quality}": encode(rgb, "WEBP", quality=quality) for quality in (5, 50, 80, 100)}
    files |= {
        "webp-alpha": encode(alpha, "WEBP", quality=70),
        "webp-lossless": encode(rgb, "WEBP", lossless=True),
        "webp-lossless-alpha": encode(alpha, "WEBP", lossless=True),
        "webp-lossless-exact": encode(alpha, "WEBP", lossless=True, exact=True),
        "webp-exif-7": encode(picture(15, 22, 15), "WEBP", quality=80, exif=exif(7)),
        "webp-animation": encode(alpha, "WEBP", save_all=True, append_images=[rgb.transpose(0)], duration=50, quality=60),
    }
    return files


def sizes():
    """Odd shapes, in the format that keeps them small."""
    files = {}
    for place, (height, width) in enumerate([(1, 1), (1, 300), (300, 1), (2, 3), (37, 211), (211, 37), (33, 32), (32, 32)]):
        files[f"size-{height}x{width}"] = encode(picture(height, width, 20 + place), "WEBP", lossless=True)
    files["size-333x500"] = encode(picture(333, 500, 30, detail=40), "JPEG", quality=60)
    files["size-499x71"] = encode(picture(499, 71, 31, detail=40), "JPEG", quality=60)
    for seed, (height, width) in enumerate([(16, 16), (25, 40), (8, 30)]):
        files[f"noise-{height}x{width}"] = encode(noise(height, width, seed), "PNG")
    return files


def more():
    """For --check only: larger images, of all formats."""
    files = {}
    rng = np.random.default_rng(99)
    for seed in range(60):
        height, width = (int(side) for side in rng.integers(20, 700, 2))
        image = picture(height, width, 100 + seed, detail=int(rng.integers(2, 60))) if seed % 4 else noise(height, width, seed)
        kind = ("JPEG", "PNG", "WEBP")[seed % 3]
        options = {"JPEG": {"quality": int(rng.integers(20, 100)), "progressive": seed % 2 == 0}, "PNG": {}}
        files[f"more-{seed}"] = encode(image, kind, **options.get(kind, {"quality": int(rng.integers(20, 100))}))
    return files


def shared():
    if not os.environ.get("TAPER_TEST_DATA"):
        return {}
    root = Path(os.environ["TAPER_TEST_DATA"]) / "images"
    return {path.name: path.read_bytes() for folder in ("cifar10_test/png", "resize_check") for path in sorted((root / folder).iterdir())}


def write():
    files = pngs() | jpegs() | webps() | sizes()
    made = {name: processor_of(config) for name, config in PROCESSORS.items()}
    names = list(PROCESSORS)
    tensors = {f"{name}.file": np.frombuffer(data, np.uint8) for name, data in files.items()}
    ramp = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2))
    tensors |= {f"table/{name}": scaled(ramp).reshape(3, 256) for name, (_, _, scaled) in made.items()}
    for place, (file, data) in enumerate(files.items()):
        # two of the processors in turn, all for the odd shapes
        for name in names if file.startswith("size-") else [names[place % len(names)], names[(place * 7 + 3) % len(names)]]:
            tensors[f"{file}/{name}"] = made[name][0](load(data))
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(tensors, TARGET / "cases.safetensors", {"processors": json.dumps(PROCESSORS)})
    cases = sum("/" in name and not name.startswith("table/") for name in tensors)
    print(f"{len(files)} files, {cases} cases, {(TARGET / 'cases.safetensors').stat().st_size} bytes")


def check(binary):
    groups = {"made": pngs() | jpegs() | webps() | sizes(), "larger": more(), "shared": shared()}
    worst = 0
    for name, config in PROCESSORS.items():
        fitted, pixels, _ = processor_of(config)
        for group, files in groups.items():
            if not files:
                continue
            with tempfile.TemporaryDirectory() as folder:
                paths = [Path(folder) / f"{place}.bin" for place in range(len(files))]
                for path, data in zip(paths, files.values()):
                    path.write_bytes(data)
                (Path(folder) / "config.json").write_text(json.dumps(config))
                subprocess.run([binary, f"{folder}/config.json", f"{folder}/out", *paths], check=True)
                ours = load_file(f"{folder}/out")
            bytes_off, differ, values, numbers_off = 0, 0, 0, 0.0
            for place, (file, data) in enumerate(files.items()):
                image = load(data)
                want, got = fitted(image).astype(int), ours[f"{place}.fitted"].astype(int)
                assert want.shape == got.shape, (name, file, want.shape, got.shape)
                off = np.abs(want - got)
                bytes_off, differ, values = max(bytes_off, off.max()), differ + (off > 0).sum(), values + off.size
                if off.max() > 0:
                    print(f"  {name} {file}: {off.max()} of 255")
                numbers_off = max(numbers_off, np.abs(pixels(image) - ours[str(place)]).max())
            worst = max(worst, bytes_off)
            print(f"{name} {group}: {len(files)} images, bytes differ by at most {bytes_off} ({differ} of {values}), numbers by {numbers_off}")
    print(f"largest difference: {worst} of 255, {sum(map(len, groups.values()))} images, {len(PROCESSORS)} processors")
    return 1 if worst > 1 else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", metavar="PREPROCESS", help="the example's binary")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sys.exit(check(arguments.check) if arguments.check else write())
