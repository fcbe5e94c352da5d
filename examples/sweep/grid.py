"""The configurations of the sweep: a name, the class of the model, and its options.

`QUICK` needs no scikit-learn and hardly any time: it rehearses the sweep rather than training anything.
"""

from __future__ import annotations

from typing import Any

GRID: dict[str, tuple[str, dict[str, Any]]] = {
    "svc-rbf-c1": ("sklearn.svm.SVC", {"C": 1}),
    "svc-rbf-c10": ("sklearn.svm.SVC", {"C": 10}),
    "svc-rbf-c100": ("sklearn.svm.SVC", {"C": 100}),
    "svc-poly-3": ("sklearn.svm.SVC", {"kernel": "poly", "degree": 3}),
    "forest-20": ("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 20}),
    "forest-50": ("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 50}),
    "extra-trees-50": ("sklearn.ensemble.ExtraTreesClassifier", {"n_estimators": 50}),
    "logistic-c0.01": ("sklearn.linear_model.LogisticRegression", {"C": 0.01, "max_iter": 50}),
    "logistic-c1": ("sklearn.linear_model.LogisticRegression", {"C": 1, "max_iter": 100}),
    "knn-1": ("sklearn.neighbors.KNeighborsClassifier", {"n_neighbors": 1}),
    "knn-5": ("sklearn.neighbors.KNeighborsClassifier", {"n_neighbors": 5}),
    "mlp-32": ("sklearn.neural_network.MLPClassifier", {"hidden_layer_sizes": (32,), "max_iter": 10}),
    "mlp-64": ("sklearn.neural_network.MLPClassifier", {"hidden_layer_sizes": (64,), "max_iter": 20}),
    "mlp-64-64": ("sklearn.neural_network.MLPClassifier", {"hidden_layer_sizes": (64, 64), "max_iter": 15}),
}

REHEARSAL = "rehearsal"

QUICK: dict[str, tuple[str, dict[str, Any]]] = {
    f"rehearsal-{n}": (REHEARSAL, {"seconds_per_fold": 0.1 + 0.02 * n}) for n in range(1, 7)
}
