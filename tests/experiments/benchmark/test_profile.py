import pytest

from experiments.benchmark import profile

TEXT = """HloModule jit_f, is_scheduled=true

%fused_convolution (p.1: f32[2,2]) -> f32[2,2] {
  %p.1 = f32[2,2]{1,0} parameter(0)
  %sum.1 = f32[2]{0} reduce(%p.1), dimensions={1}, to_apply=%add
  %conv.1 = f32[2,2]{1,0} convolution(%p.1, %p.1), dim_labels=bf_io->bf
  ROOT %add.1 = f32[2,2]{1,0} add(%conv.1, %p.1)
}

%fused_moves (p.2: f32[2,2]) -> f32[2,2] {
  %p.2 = f32[2,2]{1,0} parameter(0)
  ROOT %transpose.2 = f32[2,2]{0,1} transpose(%p.2), dimensions={1,0}
}

ENTRY %main (x: f32[2,2]) -> (f32[2,2], f32[]) {
  %x = f32[2,2]{1,0:T(8,128)} parameter(0)
  %first = f32[2,2]{1,0:T(8,128)} fusion(%x), kind=kOutput, calls=%fused_convolution
  %second = f32[2,2]{0,1} fusion(%first), kind=kLoop, calls=%fused_moves
  %third = (f32[2,2]{1,0}, s8[0]{0}) custom-call(%x), custom_call_target="__cublas$gemm"
  %fourth = (s32[], f32[2,2]{1,0}) while(%third), condition=%c, body=%b
  %fifth = f32[2,2]{1,0} exponential(%first), metadata={op_name="jit(f)/dot_general(x)"}
  ROOT %last = (f32[2,2]{1,0}, f32[]) tuple(%fifth, %first)
}
"""


def test_a_fusion_is_of_the_first_kind_that_it_has_an_operation_of():
    kinds = profile.kinds(TEXT)
    assert {name: kinds.get(name) for name in ("first", "second", "third", "fourth", "fifth")} == {
        "first": "convolution",
        "second": "copy",
        "third": "product",
        "fourth": None,
        "fifth": "elementwise",
    }


def test_seconds_add_up_by_kind():
    events = [("first", 1.0), ("fifth", 0.25), ("first", 2.0), ("ThunkExecutor", 9.0)]
    seconds = profile.by_kind(profile.kinds(TEXT), events)
    assert seconds == pytest.approx({"convolution": 3.0, "elementwise": 0.25})
