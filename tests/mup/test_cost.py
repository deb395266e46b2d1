import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from core.mup import cost, published
from core.mup.cost import DiT

# arXiv:2212.09748v2: Gflops and millions of parameters, at 256 pixels and patch 2
PUBLISHED_DITS = {
    "S/2": (DiT(width=384, layers=12), 6.06, 33),
    "B/2": (DiT(width=768, layers=12), 23.01, 130),
    "L/2": (DiT(width=1024, layers=24), 80.71, 458),
    "XL/2": (DiT(), 118.64, 675),
}


def diffusers_dit(small: DiT, head_dim: int):
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=small.width // head_dim,
        attention_head_dim=head_dim,
        num_layers=small.layers,
        sample_size=small.side,
        patch_size=small.patch,
        in_channels=small.channels,
        out_channels=small.out_channels,
        num_embeds_ada_norm=small.classes,
    )


def test_pixart_costs_five_and_a_half_percent_by_every_reading():
    shares = cost.pixart_shares()
    assert shares["rounded"] == pytest.approx(0.0546, abs=5e-5)
    assert shares["counted parameters"] == pytest.approx(0.0535, abs=5e-5)
    assert shares["counted steps"] == pytest.approx(0.0542, abs=5e-5)
    claimed = published.PixArt().claimed_share
    assert all(abs(share - claimed) < 0.002 for share in shares.values())


def test_pixart_has_the_parameters_that_the_abstract_rounds():
    p = published.PixArt()
    assert cost.pixart_parameters(4) / 1e6 == pytest.approx(39.2, abs=0.05)
    assert cost.pixart_parameters(16) / 1e6 == pytest.approx(610.9, abs=0.05)
    assert round(cost.pixart_parameters(4) / 1e9, 2) == p.proxy_billions
    assert round(cost.pixart_parameters(16) / 1e9, 2) == p.target_billions


def test_three_percent_of_an_expert_needs_a_quarter_more_than_is_public():
    assert cost.mmdit_share(expert_trainings=1) == pytest.approx(0.12)
    assert cost.mmdit_share() == pytest.approx(0.024)
    assert cost.mmdit_share(expert_trainings=4) == pytest.approx(0.03)
    assert cost.mmdit_share(batch=1.25) == pytest.approx(published.MMDiT().claimed_share)


@pytest.mark.parametrize(
    "bad", [{"size": 0.0, "length": 1.0}, {"size": 1.0, "length": float("nan")}]
)
def test_a_share_of_nothing_is_refused(bad):
    with pytest.raises(ValueError, match="above 0"):
        cost.tuning_share(5, **bad)


def test_the_speed_up_of_the_abstract_is_the_ratio_of_the_iterations():
    run = published.FinalRun()
    assert run.baseline_epochs / run.epochs == pytest.approx(2.917, abs=5e-4)
    assert round(published.DIT_XL_2.millions[-1] / published.DIT_XL_2_MUP.millions[-1], 1) == 2.9


def test_the_final_fid_of_the_baseline_is_passed_sooner_than_the_abstract_says():
    by_figure, by_paper = cost.speedup(7.0), cost.speedup(7.0, published.DIT_XL_2_ORIGINAL_FID)
    assert 7.0 / by_figure.ratio == pytest.approx(2.144, abs=1e-3)
    assert 7.0 / by_paper.ratio == pytest.approx(2.096, abs=1e-3)
    assert by_figure.low > 2.917  # even with both curves read wrong
    assert by_figure.low < by_figure.ratio < by_paper.ratio < by_figure.high


def test_the_speed_up_depends_on_the_target():
    ratios = [cost.speedup(at).ratio for at in (0.8, 1.2, 1.6, 2.0, 2.4, 7.0)]
    assert [round(r, 1) for r in ratios] == [1.2, 1.4, 1.5, 1.5, 1.7, 3.3]


def test_a_point_that_was_read_is_reached_where_it_was_read():
    curve = published.DIT_XL_2_MUP
    for millions, fid in zip(curve.millions, curve.fid, strict=True):
        assert cost.reached(curve, fid) == pytest.approx(millions)


def test_what_a_curve_never_reaches_is_refused():
    with pytest.raises(ValueError, match=r"from 18\.57 to 9\.43, got FID 9"):
        cost.reached(published.DIT_XL_2_MUP, 9.0)


@pytest.mark.parametrize("name", PUBLISHED_DITS)
def test_operations_and_parameters_are_those_that_the_paper_of_dit_prints(name):
    dit, gflops, millions = PUBLISHED_DITS[name]
    assert dit.forward / 1e9 == pytest.approx(gflops, rel=1e-3)
    assert dit.parameters / 1e6 == pytest.approx(millions, abs=0.7)


def test_a_large_dit_has_674_8_million_once_its_embedders_are_one():
    with torch.device("meta"):
        model = diffusers_dit(DiT(), 72)
    counted = sum(p.numel() for p in model.parameters())
    assert counted / 1e6 == pytest.approx(749.8, abs=0.05)
    assert DiT().parameters == counted - (DiT().layers - 1) * DiT().embedder
    assert DiT().parameters / 1e6 == pytest.approx(674.8, abs=0.05)


def test_the_operations_are_those_that_torch_counts():
    small = DiT(width=24, layers=3, side=8, channels=3, out_channels=5, classes=7)
    model = diffusers_dit(small, 12).eval()
    x, one = torch.zeros(1, 3, 8, 8), torch.ones(1, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(x, timestep=one, class_labels=one)
    # diffusers embeds in every block, and once more for the final norm
    again = small.layers * (small.frequencies + small.width) * small.width
    assert counter.get_total_flops() == 2 * (small.forward + again)


def test_training_xl_takes_hundreds_of_gpu_hours():
    images = 2.4e6 * 256
    assert DiT().training(images) == pytest.approx(4.4e20, rel=0.01)
    assert cost.hours(DiT().training(images)) == pytest.approx(307, rel=0.01)
    assert cost.hours(7200.0, utilisation=0.5, peak=2.0) == 2  # an operation a second
