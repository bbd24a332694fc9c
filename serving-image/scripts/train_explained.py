#!/usr/bin/env python3
"""Trains the small models of serving-image/tests/models/explained, and records what the package
`shap` says of their answers.

    python3 serving-image/scripts/train_explained.py

Every way of explaining has a model whose data scikit-learn ships: a logistic regression and a
linear regression (linear), a random forest, boosted trees for two and for three classes, and a
forest of regression trees (trees), and a perceptron with 4 fields (every coalition) and one with 13
(random orders). The background is 20 instances of the training data; the values are `shap`'s
interventional ones for that background, from its linear, tree and exact explainers. The forest of
classifiers is held to the exact one: there `shap`'s own tree explainer differs from it by 0.002.
"""

import json

from artefacts import SERVING, write_manifest
from environment import enter

enter(
    "numpy==2.4.6", "onnx==1.23.2", "onnxmltools==1.16.0", "safetensors==0.8.0", "scikit-learn==1.9.1", "shap==0.51.0",
    "skl2onnx==1.20.0", "xgboost-cpu==3.2.0",
)

import numpy as np
import shap
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType as XgbTensorType
from safetensors.numpy import save_file
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from xgboost import XGBClassifier

TESTS = SERVING / "tests"
MODELS = TESTS / "models/explained"
BACKGROUND, EXPLAINED = 20, 8


def snake(name):
    return name.replace(" (cm)", "").replace(" ", "_").replace("/", "_")


def data(load, columns=None):
    """Names, rows in 32 bits (as the graphs compare them) and targets; the rows shuffled, the
    first ones are background."""
    loaded = load()
    columns = list(range(loaded.data.shape[1])) if columns is None else columns
    order = np.random.default_rng(7).permutation(len(loaded.data))
    names = [snake(str(loaded.feature_names[column])) for column in columns]
    labels = [str(name) for name in getattr(loaded, "target_names", [])]
    return names, loaded.data[order][:, columns].astype(np.float32), loaded.target[order], labels


def dense(model):
    if hasattr(model, "coefs_"):
        return list(zip([weight.T for weight in model.coefs_], model.intercepts_))
    return [(np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_))]


def write(name, description, set_, network, file, expected):
    """A model directory, and the fixture with each explained instance's outputs: base value and
    contributions."""
    names, rows, _, labels = set_
    directory = MODELS / name
    directory.mkdir(parents=True, exist_ok=True)
    file(directory)
    instance = lambda row: dict(zip(names, (float(x) for x in row)))
    manifest = {
        "schemaVersion": 1,
        "name": name,
        "version": "1.0.0",
        "description": description,
        "licence": "BSD-3-Clause",
        "kind": "tabular",
        "task": "classification" if labels else "regression",
        "inputs": [{"name": field, "type": "number"} for field in names],
        "preprocessing": [{"step": "order", "features": names}],
        "network": network,
        "outputs": {"labels": labels} if labels else {},
        "background": {"instances": [instance(row) for row in rows[:BACKGROUND]]},
    }
    write_manifest(directory, manifest)
    explained = rows[-EXPLAINED:]
    base, values = expected(rows[:BACKGROUND], explained)  # outputs; instances × fields × outputs
    base, values = np.atleast_1d(base), np.asarray(values)
    if values.ndim == 2:
        values = values[:, :, None]
    cases = [
        {
            "instance": instance(row),
            "outputs": [
                {"base": float(base[output]), "contributions": [float(x) for x in value[:, output]]}
                for output in range(value.shape[1])
            ],
        }
        for row, value in zip(explained, values)
    ]
    fixture = TESTS / "fixtures" / f"explained-{name}.json"
    fixture.write_text(json.dumps(cases) + "\n")
    print(f"{name}: {len(cases)} instances, {values.shape[2]} outputs")


def tensors(model):
    layers = {}
    for index, (weight, bias) in enumerate(dense(model)):
        layers[f"layers.{index}.weight"] = np.ascontiguousarray(weight, dtype=np.float32)
        layers[f"layers.{index}.bias"] = np.ascontiguousarray(bias, dtype=np.float32)

    def file(directory):
        save_file(layers, directory / "model.safetensors")
        (directory / "model.safetensors").chmod(0o644)

    return file


def graph(convert):
    def file(directory):
        (directory / "model.onnx").write_bytes(convert().SerializeToString())

    return file


def onnx(output, holds):
    return {"architecture": "onnx", "graph": "model.onnx", "outputs": [{"name": output, "holds": holds}]}


def linear(model):
    def expected(background, explained):
        explainer = shap.LinearExplainer(model, shap.maskers.Independent(background, max_samples=BACKGROUND))
        return explainer.expected_value, explainer.shap_values(explained)

    return expected


def trees(model, scale):
    def expected(background, explained):
        explainer = shap.TreeExplainer(model, background, feature_perturbation="interventional", model_output=scale)
        return explainer.expected_value, explainer.shap_values(explained)

    return expected


def coalitions(model):
    def expected(background, explained):
        masker = shap.maskers.Independent(background, max_samples=BACKGROUND)
        found = shap.ExactExplainer(model.predict_proba, masker)(explained)
        return found.base_values[0], found.values

    return expected


def main():
    iris, wine, diabetes = data(load_iris), data(load_wine), data(load_diabetes)
    breast = data(load_breast_cancer, range(8))
    skl = lambda model, set_, options=None: lambda: to_onnx(
        model, initial_types=[("X", FloatTensorType([None, len(set_[0])]))], options=options, target_opset={"": 17, "ai.onnx.ml": 3}
    )
    plain = lambda model: {id(model): {"zipmap": False}}

    model = LogisticRegression(max_iter=5000).fit(iris[1], iris[2])
    write("iris-logistic", "Logistic regression", iris, {"architecture": "linear", "weights": "model.safetensors"},
          tensors(model), linear(model))
    model = LinearRegression().fit(diabetes[1], diabetes[2])
    write("diabetes-linear", "Linear regression", diabetes, {"architecture": "linear", "weights": "model.safetensors"},
          tensors(model), linear(model))
    model = RandomForestClassifier(12, max_depth=5, random_state=7).fit(iris[1], iris[2])
    write("iris-forest", "Random forest", iris, onnx("probabilities", "probabilities"),
          graph(skl(model, iris, plain(model))), coalitions(model))
    model = RandomForestRegressor(10, max_depth=4, random_state=7).fit(diabetes[1], diabetes[2])
    write("diabetes-forest", "Forest of regression trees", diabetes, onnx("variable", "values"),
          graph(skl(model, diabetes)), trees(model, "raw"))
    for name, set_ in [("breast-boosted", breast), ("wine-boosted", wine)]:
        model = XGBClassifier(n_estimators=15, max_depth=3, learning_rate=0.3, base_score=0.5).fit(set_[1], set_[2])
        convert = lambda model=model, set_=set_: convert_xgboost(
            model, initial_types=[("X", XgbTensorType([None, len(set_[0])]))]
        )
        write(name, "Boosted trees", set_, onnx("probabilities", "probabilities"),
              graph(convert), trees(model, "raw"))
    for name, set_ in [("iris-perceptron", iris), ("wine-perceptron", wine)]:
        scale = set_[1].std(axis=0)
        scaled = (set_[0], (set_[1] / scale).astype(np.float32), set_[2], set_[3])
        model = MLPClassifier((8,), max_iter=4000, random_state=7).fit(scaled[1], scaled[2])
        write(name, "Perceptron on scaled numbers", scaled,
              {"architecture": "mlp", "activation": "relu", "weights": "model.safetensors"},
              tensors(model), coalitions(model))


if __name__ == "__main__":
    main()
