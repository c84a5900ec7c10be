"""SHA-256 of published files, and who states them.

Sources: torchvision puts the first eight digits into the name of a file (torchvision.models, `url` of each weight);
renesas-rz/meta-renesas-ai, meta-benchmark/recipes-benchmark/benchmark/benchmark.bb; openvinotoolkit/open_model_zoo,
models/public/*/model.yml. The last two agree on the four files that both have.
"""

from collections.abc import Mapping

TORCHVISION = "the file's name"
MODEL_ZOO = "Open Model Zoo"
RENESAS = "meta-renesas-ai"

_TORCHVISION = {
    "MobileNet_V2_Weights.IMAGENET1K_V1": "b0353104",
    "MobileNet_V2_Weights.IMAGENET1K_V2": "7ebf99e0",
    "MobileNet_V3_Large_Weights.IMAGENET1K_V1": "8738ca79",
    "MobileNet_V3_Large_Weights.IMAGENET1K_V2": "5c1a4163",
    "MobileNet_V3_Small_Weights.IMAGENET1K_V1": "047dcff4",
}
_RENESAS = {
    "mobilenet_v2_1.4_224.tgz": "a20d0c8d698502dc6a620528871c97a588885df7737556243a3412b39fce85e0",
    "mobilenet_v2_1.3_224.tgz": "b04129d44a46e0eb409c1a2bc255472ebdd57f9c091812e7866d79d0cc7fecaa",
    "mobilenet_v2_1.0_224.tgz": "318084bc1b63d6d7b854553e09cdf77078b1c0168be27c59a0d44253b5ed49dc",
    "mobilenet_v2_1.0_192.tgz": "e8d9cd7c571f375c80945b5f889705ae412db32d3419d747e796429e39132f48",
    "mobilenet_v2_1.0_160.tgz": "e374bc70066dde0c3af6cb4c98ecd8707800d71d11353c4cc359b3069415f23e",
    "mobilenet_v2_1.0_128.tgz": "f692e341cf1529df4f7e68ed13d0284ad8796ade1108f802eec135abc1fc1b83",
    "mobilenet_v2_1.0_96.tgz": "8f0377b71d79f5626c5198f248b476d2604b3e4e596ca4076e1b1f8fcd3f3844",
    "mobilenet_v2_0.75_224.tgz": "335cd22c7e1c5e80205dedd6e2ff5d1d8af5c29074496eb047fd621349e10cc5",
    "mobilenet_v2_0.75_192.tgz": "40efef9324376d47b872d1cd6e4de8ba7c9323b6203252aa66dc2b2413e0dc8d",
    "mobilenet_v2_0.75_160.tgz": "904d1a1f84c329ad766464d132f697e96814685853c45c6ee4dd21877ada36bc",
    "mobilenet_v2_0.75_128.tgz": "9ac932679a9fb1304bc1435bb7fa30e1b2fcaa7f49e0902da24d154ec83f9302",
    "mobilenet_v2_0.75_96.tgz": "bdf06eec5478dbb1bb9e01648637d8acd4cc500f72e1a3dad01ba45642e31e6f",
    "mobilenet_v2_0.5_224.tgz": "813febbdbe2a7a50055ee2f6b374938aed03e2f607f63f3479622aefc4e12b00",
    "mobilenet_v2_0.5_192.tgz": "5a344ed91cded5d420b6c65d47343ee60b43b570953b0feed4ee95451a679dd5",
    "mobilenet_v2_0.5_160.tgz": "f89c879b1a45c5d677ad7fe499f08a7854ef1772f0f5ae5d606afaaa87218e45",
    "mobilenet_v2_0.5_128.tgz": "ba078efd101c2308fb978467084f0ec12485ed8bfbb7695e477587b3272a1d66",
    "mobilenet_v2_0.5_96.tgz": "71a814047d7729bad711ae3e7db30e6c32999a1189f88d328b73939f7aa80d62",
    "mobilenet_v2_0.35_224.tgz": "efcc34277c52f7dd4b0b26c2f52686793f4ea5fdddc899ac5aac9eb8d5861550",
    "mobilenet_v2_0.35_192.tgz": "5dec603e2714a780c3cfc0656dac51bf2f4b354c4f7acda879ad5b6017f3f55b",
    "mobilenet_v2_0.35_160.tgz": "e579b5b50f47e88dc0c4390d20a396658b97457182f83905154a8a687ba15fa7",
    "mobilenet_v2_0.35_128.tgz": "c21a8f89e2e1a49e9002b1e1b871f3c92695ccb0cd64e7e7a21b71f2820beddb",
    "mobilenet_v2_0.35_96.tgz": "282996bca7d799d0172ce5d34ac59dea497c4c75f069a8b466bb944c6f843353",
    "v3-large_224_1.0_float.tgz": "9be8563f92022f412c82f2811d670888d6db998e2da9af3e71415fdde2f4f504",
    "v3-large_224_0.75_float.tgz": "4346e7893769d3f8ac79e28e7924b351bf8348a8a4d5e7a606260003e706aea5",
    "v3-small_224_1.0_float.tgz": "e60ad9f450f892ae56f8b9122ffc750d88940d9e6b63f6dc70649179fb3a9065",
    "v3-small_224_0.75_float.tgz": "fffd2e437434f319623ecf26cdbebdb933dcd753afa38e7c2f78cb59c6fc470f",
}
_MODEL_ZOO = {
    "mobilenet_v1_1.0_224.tgz": "2fadeabb9968ec6833bee903900dda6e61b3947200535874ce2fe42a8493abc0",
    "mobilenet_v1_0.5_224.tgz": "98cf7a39552f73920cb99617cfa9b88d5732a87abf9ec14f7cc7f3ade1db0aaa",
    "mobilenet_v1_0.5_160.tgz": "6bbc9dd7892433e49b4b6ff6af2952183eaa6c1c0cb862868465377a29c77b0d",
    "mobilenet_v1_0.25_128.tgz": "879ddc3e0857f3611b5cf248e36de2288c7a11ea8c2ed8a8bdded635e6010dfe",
    "ssdlite_mobilenet_v2_coco_2018_05_09.tar.gz": "542445cce834dbfbb7df1991425d475e85a2d7ec68c60a4f262bb18aac10c8b2",
    "ssd_mobilenet_v2_coco_2018_03_29.tar.gz": "b9380178b2e35333f1a735e39745928488bdabeb9ed20bc6fa07af8172cb5adc",
    "ssd_mobilenet_v1_coco_2018_01_28.tar.gz": "8788f89108519fd1102b8a5c2ac861cf6d86603571b6ce5bbd1c245b7fe005e3",
    "deeplabv3_mnv2_pascal_train_aug_2018_01_29.tar.gz": (
        "cd506941e4f88fd053903913761df2e76ea00c01079cecfd35855304a4a5fb48"
    ),
    "mobilenet_v2.pth.tar": "ecbe2b568c8602549fa9e1d5833c63848f490a48d92e5d224d1eb2063e152cf8",
}

DIGESTS: Mapping[str, tuple[str, str]] = {
    name: (digest, source)
    for source, digests in ((TORCHVISION, _TORCHVISION), (RENESAS, _RENESAS), (MODEL_ZOO, _MODEL_ZOO))
    for name, digest in digests.items()
}
"""By the last part of a location: SHA-256 in hexadecimal, or its beginning; and who states it."""
