"""Writes numpy_vectors.json: what numpy says of a few numbers, for the tests of `distribution.rs` and
`arrivals.rs`, which must say the same.

    pip install numpy && python3 numpy_vectors.py > numpy_vectors.json
"""

import json

import numpy as np

PERCENTILES = [0, 1, 5, 12.5, 25, 50, 75, 90, 95, 99, 99.9, 100]


def distribution(values):
    values = np.asarray(values, dtype=np.float64)
    return {
        "values": values.tolist(),
        "mean": float(np.mean(values)),
        "median": float(np.median(values)),
        "std": float(np.std(values)),
        "percentiles": [[p, float(np.percentile(values, p))] for p in PERCENTILES],
    }


def arrivals(random, burstiness, rate, count):
    """As `vllm bench serve`: gaps, cumulated, rescaled so that the last is at count / rate."""
    gaps = random.gamma(shape=burstiness, scale=1.0 / (rate * burstiness), size=count)
    cumulated = np.cumsum(gaps)
    return {
        "rate": rate,
        "gaps": gaps.tolist(),
        "arrivals": (cumulated * (count / rate / cumulated[-1])).tolist(),
    }


def gaps(random, burstiness):
    """Quantiles of many gaps at one request a second."""
    drawn = random.gamma(shape=burstiness, scale=1.0 / burstiness, size=1_000_000)
    return {
        "burstiness": burstiness,
        "mean": float(np.mean(drawn)),
        "std": float(np.std(drawn)),
        "quantiles": [[p, float(np.percentile(drawn, p))] for p in (10, 25, 50, 75, 90, 99)],
    }


def main():
    random = np.random.RandomState(0)
    vectors = {
        "numpy": np.__version__,
        "distributions": [
            distribution([3.25]),
            distribution([2.0, 1.0]),
            distribution([5, 1, 4, 4, 2]),
            distribution(np.round(random.lognormal(3, 1, 40), 4)),
            distribution(np.round(random.normal(0, 1e-4, 33), 9)),
        ],
        "arrivals": [arrivals(random, b, r, 12) for b, r in ((1.0, 2.0), (0.25, 40.0), (8.0, 0.5))],
        "gaps": [gaps(random, burstiness) for burstiness in (0.25, 1.0, 4.0)],
    }
    print(json.dumps(vectors))


main()
