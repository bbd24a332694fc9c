#!/usr/bin/env python3
"""Trains the example models examples/models/iris/{1.0.0,2.0.0} on the Iris data set that
scikit-learn ships.

python3 -m venv venv && venv/bin/pip install scikit-learn==1.9.1 numpy==2.4.6 safetensors==0.8.0
venv/bin/python serving-image/scripts/train_iris.py cargo run -p serin-serve -- manifest
examples/models/iris/1.0.0     # lists files and sha256, prints the digest cargo run -p serin-serve
-- manifest examples/models/iris/2.0.0

1.0.0 is a logistic regression, 2.0.0 a perceptron with one hidden layer. Both carry their
preprocessing (standard scaling fitted on the training split) and five golden examples.
scikit-learn's own probabilities for all 150 flowers go to serving-image/tests/fixtures/, where a
test holds the server to them within 1e-5.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

REPOSITORY = Path(__file__).resolve().parents[2]
MODELS = REPOSITORY / "examples/models/iris"
FIXTURES = REPOSITORY / "serving-image/tests/fixtures"
FEATURES = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
# One flower of each species, and two at the border between versicolor and virginica.
GOLDEN = [0, 50, 100, 70, 133]


def dense_layers(classifier):
    """(weight, bias) of each layer; scikit-learn's MLP keeps inputs × outputs, safetensors get
    outputs × inputs."""
    if isinstance(classifier, LogisticRegression):
        return [(classifier.coef_, classifier.intercept_)]
    return [(weight.T, bias) for weight, bias in zip(classifier.coefs_, classifier.intercepts_)]


def export(version, description, network, classifier, data):
    x_train, x_test, y_train, y_test = train_test_split(
        data.data, data.target, test_size=0.2, stratify=data.target, random_state=7
    )
    pipeline = make_pipeline(StandardScaler(), classifier).fit(x_train, y_train)
    accuracy = pipeline.score(x_test, y_test)
    print(f"iris {version}: accuracy on the 30 flowers held out {accuracy:.3f}")
    scaler = pipeline[0]

    directory = MODELS / version
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for index, (weight, bias) in enumerate(dense_layers(classifier)):
        tensors[f"layers.{index}.weight"] = np.ascontiguousarray(weight, dtype=np.float32)
        tensors[f"layers.{index}.bias"] = np.ascontiguousarray(bias, dtype=np.float32)
    save_file(tensors, directory / "model.safetensors")
    (directory / "model.safetensors").chmod(0o644)  # written 0600, which no non-root container could read

    probabilities = pipeline.predict_proba(data.data)
    instances = [dict(zip(FEATURES, map(float, row))) for row in data.data]
    manifest = {
        "schemaVersion": 1,
        "name": "iris",
        "version": version,
        "description": f"{description} Accuracy on 30 flowers held out: {accuracy:.3f}.",
        "licence": "Apache-2.0",
        "kind": "tabular",
        "task": "classification",
        "inputs": [
            {"name": name, "type": "number", "min": 0, "max": 30, "unit": "cm", "nullable": False}
            for name in FEATURES
        ],
        "preprocessing": [
            {"step": "order", "features": FEATURES},
            {"step": "standardScale", "mean": scaler.mean_.tolist(), "scale": scaler.scale_.tolist()},
        ],
        "network": {**network, "weights": "model.safetensors"},
        "outputs": {"labels": data.target_names.tolist()},
        "limits": {"maxInstances": 1024},
        "golden": [
            {"instance": instances[row], "output": probabilities[row].tolist(), "tolerance": 1e-5} for row in GOLDEN
        ],
    }
    (directory / "serin-model.json").write_text(json.dumps(manifest, indent=2) + "\n")

    reference = {
        "source": "scikit-learn predict_proba",
        "labels": data.target_names.tolist(),
        "instances": instances,
        "probabilities": probabilities.tolist(),
    }
    FIXTURES.mkdir(parents=True, exist_ok=True)
    (FIXTURES / f"iris-{version}.json").write_text(json.dumps(reference) + "\n")


def main():
    data = load_iris()
    export(
        "1.0.0",
        "Iris species from four measurements of the flower, by logistic regression.",
        {"architecture": "linear"},
        LogisticRegression(max_iter=1000),
        data,
    )
    export(
        "2.0.0",
        "Iris species from four measurements of the flower, by a perceptron with 16 hidden units.",
        {"architecture": "mlp", "activation": "relu"},
        MLPClassifier(hidden_layer_sizes=(16,), activation="relu", max_iter=5000, random_state=7),
        data,
    )


if __name__ == "__main__":
    main()
