"""timm: the smallest of each of its families, and of what differs within a family; and its own miniatures."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import nn

from benchmarks.foreign.architecture import Architecture, images

# timm's own tests use these: whole architectures of some hundred thousand parameters.
MINIATURES = (
    "test_byobnet test_convnext test_convnext2 test_convnext3 test_coatnet test_efficientnet "
    "test_efficientnet_evos test_efficientnet_gn test_efficientnet_ln test_mambaout test_maxvit test_nfnet "
    "test_resnet test_vit test_vit2 test_vit3 test_vit4 test_vit_relpos"
)
# Of any size of image: a small one.
_FREE = (
    "bat_resnext26ts botnet26t_256 halonet26t lambda_resnet26t gcresnet33ts gernet_s mobileone_s0 regnetz_b16 "
    "repvgg_a0 convnext_atto convnext_atto_rms convnext_zepto_rms_ols convnextv2_atto cpubone_nano "
    "cs3darknet_focus_s cs3sedarknet_l cspresnet50 darknet17 cspnext_tiny csatv2 densenet121 densenetblur121d "
    "dla34 dla46x_c dla60_res2net dpn48b dpn68 edgenext_xx_small efficientnet_b0 efficientnet_b0_gn "
    "efficientnet_blur_b0 efficientnet_cc_b0_4e efficientnet_lite0 tf_efficientnet_b0 tf_mixnet_s mixnet_s "
    "mnasnet_small semnasnet_050 spnasnet_100 fbnetc_100 tinynet_e mobilenetv2_050 efficientvim_m1 "
    "efficientvit_b0 efficientvit_l1 fasternet_t0 fastvit_t8 fastvit_sa12 focalnet_tiny_srf ghostnet_050 "
    "ghostnetv2_100 ghostnetv3_050 hardcorenas_a hgnetv2_b0 hgnet_tiny hrnet_w18_small iformer_t "
    "inception_next_atto inception_resnet_v2 inception_v4 lcnetv2_small lowformer_b0 mambaout_femto "
    "caformer_s18 convformer_s18 poolformer_s12 poolformerv2_s12 mobilenetv3_small_050 "
    "mobilenetv4_conv_small_050 mobilenetv4_hybrid_medium lcnet_035 fbnetv3_b tf_mobilenetv3_small_minimal_100 "
    "mobilevit_xxs mobilevitv2_050 nasnetalarge nextvit_small nf_regnet_b0 nf_resnet26 nfnet_f0 dm_nfnet_f0 "
    "eca_nfnet_l0 pnasnet5large pvt_v2_b0 pvt_v2_b2_li rdnet_tiny regnetv_040 regnetx_002 regnety_002 "
    "repghostnet_050 repvit_m0_9 res2net50_14w_8s resnest14d resnet10t resnet18d resnet50_gn resnet26t "
    "ecaresnet26t resnetaa34d resnetblur18 resnetrs50 seresnet18 resnetv2_18 resnetv2_50x1_bit "
    "resnetv2_50d_evos resnetv2_50d_frn rexnet_100 rexnetr_100 selecsls42b legacy_seresnet18 shvit_s1 "
    "skresnet18 starnet_s050 swiftformer_xs tresnet_m tresnet_v2_l vgg11_bn ese_vovnet19b_slim_dw xception41 "
    "legacy_xception mambaout_kobe hgnetv2_b1 twins_svt_small convmixer_768_32"
)
# The image's size is one of the settings.
_SIZED = (
    "beit_base_patch16_224 beitv2_base_patch16_224 cait_xxs24_224 coat_tiny coat_lite_tiny convit_tiny "
    "davit_tiny deit_tiny_distilled_patch16_224 deit3_small_patch16_224 efficientformerv2_s0 "
    "eva02_tiny_patch14_224 gcvit_xxtiny gmlp_ti16_224 mixer_s32_224 resmlp_12_224 gmixer_12_224 mvitv2_tiny "
    "naflexvit_base_patch16_gap nest_tiny swin_tiny_patch4_window7_224 swin_s3_tiny_224 swinv2_tiny_window8_256 "
    "swinv2_cr_tiny_ns_224 tiny_vit_5m_224 tnt_s_patch16_224 twins_pcpvt_small visformer_tiny "
    "vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vit_relpos_small_patch16_224 vit_srelpos_small_patch16_224 "
    "vitamin_small_224 volo_d1_224 xcit_nano_12_p16_224 coatnet_nano_rw_224 coatnet_rmlp_nano_rw_224 "
    "maxvit_pico_rw_256 maxxvit_rmlp_nano_rw_256 flexivit_small vit_small_patch14_reg4_dinov2 "
    "vit_xsmall_patch16_clip_224 crossvit_9_240 pit_ti_224 levit_128s levit_conv_128s sequencer2d_s "
    "hiera_tiny_224 sam2_hiera_tiny efficientformer_l1 efficientvit_m0 samvit_base_patch16_224 "
    "convnext_tiny_hnf qwen3_vit_88m"
)


def _made(name: str, size: int | None) -> nn.Module:
    """With an image size of ours where the architecture takes one."""
    import timm

    if size is None:
        model: nn.Module = timm.create_model(name)
        return model
    try:
        model = timm.create_model(name, img_size=size)
    except TypeError:
        model = timm.create_model(name)
    return model


def architectures() -> Iterator[Architecture]:
    """All of them."""
    for name in (MINIATURES + " " + _FREE).split():
        yield Architecture(f"timm/{name}", "timm", partial(_made, name, None), images(_SIZES.get(name, 64)))
    for name in _SIZED.split():
        size = _SIZES.get(name, 64)
        yield Architecture(f"timm/{name}", "timm", partial(_made, name, size), images(size))


# Windows, patches and stages must fit.
_SIZES = {
    **dict.fromkeys(("inception_resnet_v2", "inception_v4", "nasnetalarge", "pnasnet5large"), 96),
    **dict.fromkeys(("test_coatnet", "test_maxvit", "test_vit3", "test_vit_relpos"), 160),
    **dict.fromkeys(("bat_resnext26ts", "botnet26t_256", "halonet26t"), 256),
    "efficientformer_l1": 224,
}
