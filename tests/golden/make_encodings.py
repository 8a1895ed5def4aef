"""Makes encodings.safetensors: what OpenCV makes of images in every encoding that is converted, and of compressed ones.

    pip install opencv-python-headless numpy pillow safetensors
    python make_encodings.py     # writes beside itself

Raw images are an integer hash of their name and index (`values` here, `values` in tests/encodings.rs), so that only the
answers have to be kept: noise, which has every combination of neighbours. Compressed images are kept with their
answers. JPEG's answers depend on the decoder's arithmetic (here OpenCV's libjpeg-turbo), everything else does not;
OpenCV 4.6 and 5.0 give the same file but for its "opencv" entry.
"""

import io
import pathlib

import cv2
import numpy as np
from PIL import Image
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
# width, height: more than one of the converter's blocks of 64 pixels, and the smallest there are.
EVEN = [(134, 4), (4, 4)]
ODD = [(131, 5), (3, 3)]
# cv_bridge's table: ROS names a mosaic by its first 2x2 pixels, OpenCV by two of the second row, from the second on.
BAYER = {"rggb": cv2.COLOR_BayerBG2RGB, "bggr": cv2.COLOR_BayerRG2RGB,
         "gbrg": cv2.COLOR_BayerGR2RGB, "grbg": cv2.COLOR_BayerGB2RGB}


def fnv(text):
    h = 0x811C9DC5
    for byte in text.encode():
        h = ((h ^ byte) * 0x01000193) & 0xFFFFFFFF
    return h


def values(name, count, dtype):
    """`count` values from the name and the index: the top bits of a hash; one in eight at an end of the range."""
    h = (np.arange(count, dtype=np.uint64) * 0x9E3779B1 + fnv(name)) & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        h ^= h >> np.uint64(shift)
        h = (h * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    h ^= h >> np.uint64(16)
    bits = np.iinfo(dtype).bits
    v = (h >> np.uint64(32 - bits)).astype(dtype)
    v[h & np.uint64(15) == 0] = 0
    v[h & np.uint64(15) == 1] = np.iinfo(dtype).max
    return v


def eight(image):
    """cv_bridge's way from 16 to 8 bits."""
    return image if image.dtype == np.uint8 else cv2.convertScaleAbs(image, alpha=255 / 65535)


def raw(answers):
    def put(encoding, width, height, answer):
        answers[f"raw {encoding} {width}x{height}"] = np.ascontiguousarray(answer)

    for width, height in EVEN + ODD:
        def noise(encoding, count, dtype):
            return values(f"{encoding} {width}x{height}", count, dtype)

        put("mono16", width, height, eight(noise("mono16", width * height, np.uint16).reshape(height, width)))
        for encoding, channels, code in (("rgb16", 3, None), ("bgr16", 3, cv2.COLOR_BGR2RGB),
                                         ("rgba16", 4, cv2.COLOR_RGBA2RGB), ("bgra16", 4, cv2.COLOR_BGRA2RGB)):
            image = noise(encoding, width * height * channels, np.uint16).reshape(height, width, channels)
            put(encoding, width, height, eight(image if code is None else cv2.cvtColor(image, code)))
        for pattern, code in BAYER.items():
            for dtype in (np.uint8, np.uint16):
                encoding = f"bayer_{pattern}{np.iinfo(dtype).bits}"
                image = noise(encoding, width * height, dtype).reshape(height, width)
                put(encoding, width, height, eight(cv2.cvtColor(image, code)))
        if width % 2 == 0:
            for encoding, code in (("uyvy", cv2.COLOR_YUV2RGB_UYVY), ("yuyv", cv2.COLOR_YUV2RGB_YUY2)):
                for h in (height, height - 1):
                    image = values(f"{encoding} {width}x{h}", width * h * 2, np.uint8).reshape(h, width, 2)
                    put(encoding, width, h, cv2.cvtColor(image, code))
            image = noise("nv12", width * height * 3 // 2, np.uint8).reshape(height * 3 // 2, width)
            put("nv12", width, height, cv2.cvtColor(image, cv2.COLOR_YUV2RGB_NV12))


def picture(width, height):
    """Something that JPEG is made for: shades, edges, some texture. bgr."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    b = 40 + 150 * x / width
    g = 60 + 120 * y / height + 12 * np.sin(x / 2.5)
    r = 120 + 80 * np.sin((x + 2 * y) / 17)
    disc = (x - width * 0.4) ** 2 + (y - height * 0.5) ** 2 < (height * 0.3) ** 2
    b[disc], g[disc], r[disc] = 30, 40, 220
    return np.clip(np.stack([b, g, r], 2), 0, 255).astype(np.uint8)


def pillow(image, **options):
    out = io.BytesIO()
    image.save(out, **options)
    return np.frombuffer(out.getvalue(), np.uint8)


def compressed(answers):
    def put(name, data, ros_format, code=None):
        """The picture as OpenCV decodes it, then as cv_bridge makes 8 bits of it; `code` for a mosaic."""
        data = np.asarray(data, np.uint8).ravel()
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        grey = image.ndim == 2
        if code is not None:
            image = cv2.cvtColor(image, code)
        elif not grey:
            image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)
        if name.startswith("grey_alpha"):
            image = image[:, :, 0]  # OpenCV makes colours of it
        key = f"compressed {name}|{ros_format}"
        answers[key + "|data"] = data
        answers[key + "|answer"] = np.ascontiguousarray(eight(image))

    def encode(extension, image, *options):
        ok, data = cv2.imencode(extension, image, list(options))
        assert ok
        return data

    bgr = picture(51, 35)
    grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
    wide = (bgr.astype(np.uint16) * 257 + values("wide", bgr.size, np.uint8).reshape(bgr.shape)).astype(np.uint16)
    alpha = values("alpha", 51 * 35, np.uint8).reshape(35, 51, 1)
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    quality = (cv2.IMWRITE_JPEG_QUALITY, 90)

    put("jpeg", encode(".jpg", bgr, *quality), "rgb8; jpeg compressed bgr8")
    put("jpeg_420_even", encode(".jpg", bgr[:32, :48], *quality), "jpeg")
    put("jpeg_progressive", encode(".jpg", bgr, *quality, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), "jpeg")
    put("jpeg_restarts", encode(".jpg", bgr, *quality, cv2.IMWRITE_JPEG_RST_INTERVAL, 2), "jpg")
    put("jpeg_grey", encode(".jpg", grey, *quality), "mono8; jpeg compressed ")
    put("jpeg_444", pillow(Image.fromarray(rgb), format="jpeg", quality=90, subsampling=0), "jpeg")
    put("jpeg_422", pillow(Image.fromarray(rgb), format="jpeg", quality=90, subsampling=1), "jpeg")
    put("jpeg_cmyk", pillow(Image.fromarray(rgb).convert("CMYK"), format="jpeg", quality=90), "jpeg")
    put("jpeg_mosaic", encode(".jpg", grey, *quality), "bayer_rggb8; jpeg compressed ", BAYER["rggb"])
    put("rgb8", encode(".png", bgr), "bgr8; png compressed bgr8")
    put("rgba8", encode(".png", np.concatenate([bgr, alpha], 2)), "rgba8; png compressed bgra8")
    put("mono8", encode(".png", grey), "png")
    put("rgb16", encode(".png", wide), "rgb16; png compressed bgr16")
    put("rgba16", encode(".png", np.concatenate([wide, alpha.astype(np.uint16) * 200], 2)), "png")
    put("mono16", encode(".png", wide[:, :, 1]), "mono16; png compressed mono16")
    put("mosaic8", encode(".png", grey), "bayer_grbg8; png compressed ", BAYER["grbg"])
    put("mosaic16", encode(".png", wide[:, :, 0]), "bayer_bggr16; png compressed ", BAYER["bggr"])
    put("palette", pillow(Image.fromarray(rgb).quantize(50), format="png"), "png")
    put("palette_4bit", pillow(Image.fromarray(rgb).quantize(9), format="png", bits=4), "png")
    put("grey_1bit", pillow(Image.fromarray(grey).convert("1"), format="png"), "png")
    put("grey_alpha", pillow(Image.fromarray(np.concatenate([grey[..., None], alpha], 2), "LA"), format="png"), "png")


def main():
    answers = {}
    raw(answers)
    compressed(answers)
    path = HERE / "encodings.safetensors"
    save_file(answers, path, {"opencv": cv2.__version__})
    path.chmod(0o644)
    print(sum(a.nbytes for a in answers.values()), "bytes")


if __name__ == "__main__":
    main()
