"""What is left of y_T(x) - y_0(x) when training examples have been given their shares, against the size of the steps.

    python benchmarks/path_kernel_residual.py --plot docs/path_kernel_residual.svg      # three minutes on one core; the plot needs matplotlib

The networks are those of the claims PATHKERNEL-1 and -2 (`validation.claims.path_kernel.networks`), trained 16 times as long as for slopes on the
sum of squared errors, always to the same time η T, in 8 to 128 steps of full-batch descent. Plotted is |residual|/|y_T - y_0| of two inputs that
are not trained on: of the first-order form, which falls as η, and of the exact form with n nodes of Gauss and Legendre, which falls as η^2n down
to rounding: the quadrature of a segment has an error of the order |θ_t+1 - θ_t|^(2n+1), and there are T of them.
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path
from typing import Any

from validation.claims.path_kernel import Network, networks, residual

STEPS = (8, 16, 32, 64, 128)
LONGER = 16
FORMS: dict[str, dict[str, Any]] = {"first-order": {"form": "first-order"}} | {
    f"exact, {n} node{'s' * (n > 1)}": {"form": "exact", "nodes": n} for n in (1, 2, 3)
}


def relative(network: Network, steps: int, options: dict[str, Any]) -> float:
    size, change, _ = residual(network, steps, **options)
    return size / change


def measured(seed: int) -> dict[str, tuple[float, dict[str, list[float]]]]:
    """For each network the time that it is trained, and for each form the residual at each step size."""
    found = {}
    for name, network in networks(seed).items():
        longer = network._replace(time=LONGER * network.time)
        found[name] = (
            longer.time,
            {form: [relative(longer, steps, options) for steps in STEPS] for form, options in FORMS.items()},
        )
    return found


def report(found: dict[str, tuple[float, dict[str, list[float]]]]) -> None:
    for name, (time, forms) in found.items():
        print(f"| {name} | " + " | ".join(f"η = {time / steps:.2g}" for steps in STEPS) + " | slopes |")
        print("|---" * (len(STEPS) + 2) + "|")
        for form, sizes in forms.items():
            slopes = ", ".join(f"{math.log2(a / b):.2f}" if b > 1e-13 else "-" for a, b in itertools.pairwise(sizes))
            print(f"| {form} | " + " | ".join(f"{size:.1e}" for size in sizes) + f" | {slopes} |")
        print()


def draw(found: dict[str, tuple[float, dict[str, list[float]]]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "refimpl"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(12, 4), layout="constrained", sharey=True)
    for each, (name, (time, forms)) in zip(axes, found.items(), strict=True):
        rates = [time / steps for steps in STEPS]
        for (form, sizes), mark in zip(forms.items(), "os^v", strict=True):
            each.plot(rates, sizes, f"{mark}-", ms=4, label=form)
        middle = forms["first-order"][len(STEPS) // 2]
        each.plot(
            rates, [middle * rate / rates[len(STEPS) // 2] for rate in rates], ":", color="black", label="slope 1"
        )
        each.set(title=name, xlabel="step size η", xscale="log", yscale="log")
        each.set_xticks(rates, [f"{rate:.1e}" for rate in rates], fontsize="small")
        each.minorticks_off()
        each.grid(alpha=0.3)
    axes[0].set_ylabel("|residual| / |change of the outputs|")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = measured(options.seed)
    report(found)
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    main()
