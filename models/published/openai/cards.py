"""Published models of guided-diffusion, improved-diffusion, consistency-models; all of OpenAI."""

from typing import Any

from models.published.base import Card, Fields

LICENSE = "MIT"
DG = "https://github.com/alsdudrla10/DG"
HEADS: Fields = {"model.heads": 4}
COSINE: Fields = {"training.sde": "chain", "model.beta_schedule": "cosine"}
LONG: Fields = COSINE | {"model.num_scales": 4000, "model.label_scale": 0.25}
VLB: Fields = {"objective.name": "vlb"}
DROPOUT: Fields = {"model.dropout": 0.1}
STEPS: Fields = {"sampling.n_steps": 1000}
CLASSES = "ImageNet {0} x {0}, class-conditional"


def _card(project: str, files: tuple[str, ...], model: str, figure: str, *fields: Fields) -> Card:
    merged: dict[str, Any] = {}
    for part in fields:
        merged |= part
    return Card(files, model, f"https://github.com/openai/{project}", LICENSE, figure, merged)


def _guided(file: str, side: int, model: str, figure: str, *fields: Fields) -> Card:
    own = {"data.image_size": side}
    return _card("guided-diffusion", (file,), f"ADM, {model.format(side)}", figure, own, *fields)


def _improved(file: str, side: int, model: str, figure: str, *fields: Fields) -> Card:
    own = {"data.image_size": side}
    return _card("improved-diffusion", (file,), f"Improved DDPM, {model}", figure, own, *fields)


def _edm(file: str, side: int, model: str, figure: str) -> Card:
    own = {"data.image_size": side}
    return _card("consistency_models", (file,), f"EDM by ADM's network, {model}", figure, own)


DIFFUSION = (
    _guided(
        "64x64_diffusion.pt",
        64,
        CLASSES,
        "FID 2.07",
        COSINE | DROPOUT | {"model.use_new_attention_order": True},
    ),
    _guided("128x128_diffusion.pt", 128, CLASSES, "FID 5.91", HEADS),
    _guided("256x256_diffusion.pt", 256, CLASSES, "FID 10.94"),
    _guided("256x256_diffusion_uncond.pt", 256, "ImageNet {0} x {0}, unconditional", ""),
    _guided("512x512_diffusion.pt", 512, CLASSES, "FID 23.24"),
    _guided("lsun_bedroom.pt", 256, "LSUN bedroom", "FID 1.90", STEPS | DROPOUT),
    _guided("lsun_cat.pt", 256, "LSUN cat", "FID 5.57", STEPS | DROPOUT),
    _guided("lsun_horse.pt", 256, "LSUN horse", "FID 2.57", STEPS | DROPOUT),
    _guided("lsun_horse_nodropout.pt", 256, "LSUN horse, without dropout", "", STEPS),
    _improved(
        "cifar10_uncond_50M_500K.pt",
        32,
        "CIFAR-10, by L_hybrid",
        "FID 3.19, 3.17 bits/dim",
        HEADS | LONG | {"model.dropout": 0.3},
    ),
    _improved(
        "cifar10_uncond_vlb_50M_500K.pt",
        32,
        "CIFAR-10, by L_vlb",
        "FID 11.47, 2.94 bits/dim",
        HEADS | LONG | VLB | {"model.dropout": 0.3},
    ),
    _improved(
        "imagenet64_uncond_100M_1500K.pt",
        64,
        "ImageNet 64 x 64, by L_hybrid",
        "FID 19.2, 3.57 bits/dim",
        HEADS | LONG,
    ),
    _improved(
        "imagenet64_uncond_vlb_100M_1500K.pt",
        64,
        "ImageNet 64 x 64, by L_vlb",
        "FID 40.1, 3.53 bits/dim",
        HEADS | LONG | VLB,
    ),
    _improved(
        "imagenet64_cond_270M_250K.pt",
        64,
        "ImageNet 64 x 64, class-conditional",
        "FID 2.92",
        HEADS | LONG | {"model.label_scale": 1.0},
    ),
    *(
        _improved(file, 256, "LSUN bedroom", "", {"model.heads": 1} | STEPS)
        for file in ("lsun_uncond_100M_1200K_bs128.pt", "lsun_uncond_100M_2400K_bs64.pt")
    ),
)
CONSISTENCY = (
    _edm("edm_imagenet64_ema.pt", 64, CLASSES.format(64), "FID 2.44 by 79 evaluations"),
    _edm("edm_bedroom256_ema.pt", 256, "LSUN bedroom", "FID 3.57 by 79 evaluations"),
    _edm("edm_cat256_ema.pt", 256, "LSUN cat", "FID 6.69 by 79 evaluations"),
)
CLASSIFIERS = (
    *(
        _card(
            "guided-diffusion",
            (f"{side}x{side}_classifier.pt",),
            f"noisy classifier, ImageNet {side} x {side}",
            "",
            {"data.image_size": side},
            COSINE if side == 64 else {},
        )
        for side in (64, 128, 256, 512)
    ),
    Card(
        ("32x32_classifier.pt",),
        "noisy classifier, ImageNet 32 x 32",
        DG,
        "non-commercial, see its repository",
        "",
        {"training.continuous": True},
        commercial=False,
    ),
)
PAIRS = tuple(
    Card(
        (files,),
        f"classifier and discriminator of discriminator guidance{data}",
        DG,
        "non-commercial, see its repository",
        figure,
        commercial=False,
    )
    for files, data, figure in (
        ("cifar_uncond", ", CIFAR-10", "FID 1.77 with EDM's unconditional model"),
        ("*", "", ""),
    )
)
