import jax
import jax.numpy as jnp
import pytest

from experiments.commands.cost.compiled import chip, content, roofline

TEXT = """HloModule jit_f, is_scheduled=true

%fused_moves (p.2: f32[4,8]) -> f32[4,8] {
  %p.2 = f32[4,8]{1,0} parameter(0)
  ROOT %transpose.2 = f32[4,8]{0,1} transpose(%p.2), dimensions={1,0}
}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

ENTRY %main (x: f32[4,8], y: bf16[4,8]) -> f32[] {
  %x = f32[4,8]{1,0:T(8,128)} parameter(0)
  %y = bf16[4,8]{1,0:T(8,128)} parameter(1)
  %near = f32[4,8]{1,0:T(8,128)S(1)} fusion(%x), kind=kLoop, calls=%fused_moves
  %moved = bf16[4,8]{0,1:T(8,128)} copy(%y)
  %start = (f32[4,8]{1,0:T(8,128)S(1)}, f32[4,8]{1,0}, u32[]{:S(2)}) copy-start(%x)
  %done = f32[4,8]{1,0:T(8,128)S(1)} copy-done(%start)
  %two = f32[4,8]{1,0:T(8,128)S(1)} add(%near, %done)
  %one = f32[]{:T(128)} reduce(%two), dimensions={0,1}, to_apply=%sum
  ROOT %all = f32[]{:T(128)} all-reduce(%one), replica_groups={}, to_apply=%sum
}
"""


def test_the_content_of_a_text():
    """x is read by the fusion and by copy-start, y is read and written; the sum is 4 bytes."""
    found = content(TEXT)
    assert (found.fusions, found.copies, found.copied, found.collectives) == (1, 1, 64, 1)
    assert found.traffic == 128 + 128 + 2 * 64 + 4 + 2 * 4


def test_a_program_of_this_machine_is_read():
    x = jnp.ones((64, 32))
    text = jax.jit(lambda x: jnp.tanh(x) @ x.T).lower(x).compile().as_text()
    least = 4 * (64 * 32 + 64 * 64)
    assert least <= content(text).traffic <= 6 * least


def test_a_roofline_is_the_slower_of_arithmetic_and_memory():
    assert chip("TPU v5 lite") == "TPU v5 lite"
    assert chip("TPU v5p") == "TPU v5"
    assert chip("NVIDIA H200") == "NVIDIA H200"
    assert chip("cpu") is None
    assert roofline("TPU v5 lite", 197e9, 0.0) == pytest.approx((1e-3, 1.0))
    assert roofline("TPU v5 lite", 197e9, 0.82e12) == pytest.approx((1.0, 1e-3))
