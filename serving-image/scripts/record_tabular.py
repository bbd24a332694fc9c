#!/usr/bin/env python3
"""Trains the small models of tests/models with scikit-learn, XGBoost and LightGBM, and records what
those predict.

    python3 serving-image/scripts/record_tabular.py

Writes serving-image/tests/models/NAME (an artefact) and serving-image/tests/fixtures/NAME.json
(instances and their outputs by the framework itself), to which tests/reference holds the server
within the tolerance that the fixture says. The data sets are those that scikit-learn ships, and one
of made-up passengers, which has texts and missing values.
"""

import json

import environment

environment.enter(
    "scikit-learn==1.9.1", "numpy==2.4.6", "pandas==3.1.1", "safetensors==0.8.0", "xgboost==3.2.0", "lightgbm==4.7.0",
    "onnx==1.23.2", "skl2onnx==1.20.0", "onnxmltools==1.16.0", "packaging==26.3",
)  # fmt: skip

import numpy as np
import pandas as pd
from artefacts import SERVING, write_manifest
from lightgbm import LGBMClassifier
from onnxmltools import convert_lightgbm, convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType as ToolsFloat
from safetensors.numpy import save_file
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, OrdinalEncoder, RobustScaler, StandardScaler
from sklearn.svm import LinearSVC
from xgboost import XGBClassifier

MODELS = SERVING / "tests/models"
FIXTURES = SERVING / "tests/fixtures"
RECORDED = 40
OPSET = {"": 17, "ai.onnx.ml": 3}


def field_name(name):
    return name.replace(" ", "_")


def numbers(bunch):
    """The data as 32-bit floats, which is what a graph takes: a threshold falls on the same side
    everywhere."""
    frame = pd.DataFrame(bunch.data.astype(np.float32), columns=[field_name(name) for name in bunch.feature_names])
    return frame, bunch.target


def passengers(count=600):
    """Made up, with a seed: what a table of passengers may look like, and who of them pays for a meal."""
    random = np.random.default_rng(11)
    frame = pd.DataFrame(
        {
            "age": np.round(random.gamma(6, 6, count), 0),
            "fare": np.round(random.lognormal(3, 0.8, count), 2).astype(np.float32).astype(np.float64),
            "class": random.choice([1, 2, 3], count, p=[0.2, 0.3, 0.5]),
            "meal": random.choice(["none", "small", "large"], count, p=[0.5, 0.3, 0.2]),
            "port": random.choice(["Cherbourg", "Queenstown", "Southampton"], count, p=[0.3, 0.1, 0.6]),
        }
    )
    score = 0.04 * frame["age"] - 0.9 * frame["class"] + 1.2 * (frame["meal"] == "large") - 0.5 * (frame["port"] == "Cherbourg")
    target = (score + random.logistic(0, 1, count) > 0).astype(int).to_numpy()
    return frame, target


def with_gaps(frame):
    """Every ninth age and every eleventh port is missing."""
    frame = frame.copy()
    frame.loc[frame.index % 9 == 4, "age"] = np.nan
    frame["port"] = frame["port"].astype(object)
    frame.loc[frame.index % 11 == 7, "port"] = None
    return frame


def plain(value):
    """A cell as JSON has it: null for what is missing."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    return value.item() if hasattr(value, "item") else value


def instances(frame):
    return [{name: plain(row[name]) for name in frame.columns} for _, row in frame.head(RECORDED).iterrows()]


def numeric_inputs(frame):
    return [{"name": name, "type": "number", "nullable": False} for name in frame.columns]


def bins(values):
    """Bounds at the deciles of the training data, and the share of each bin: what drift is
    measured against."""
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    edges = np.unique(np.quantile(values, np.linspace(0.1, 0.9, 9)))
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
    return {"edges": edges.tolist(), "shares": (counts / counts.sum()).round(6).tolist()}


def shares(values):
    values = pd.Series(values).dropna()
    return {"shares": {str(name): round(float(share), 6) for name, share in values.value_counts(normalize=True).sort_index().items()}}


def reference(frame, outputs):
    is_number = pd.api.types.is_numeric_dtype
    return {"inputs": {n: bins(frame[n]) if is_number(frame[n]) else shares(frame[n]) for n in frame}, "outputs": outputs}


def record(name, description, manifest, frame, outputs, source, tolerance, files):
    """Writes the artefact and the fixture; the first three instances are the artefact's golden
    examples."""
    directory = MODELS / name
    directory.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (directory / file).write_bytes(content)
    outputs = np.asarray(outputs, dtype=np.float64)[:RECORDED].tolist()
    rows = instances(frame)
    golden = [{"instance": rows[i], "output": outputs[i], "tolerance": tolerance} for i in range(3)]
    head = {"schemaVersion": 1, "name": name, "version": "1.0.0", "description": description, "licence": "Apache-2.0"}
    tail = {"limits": {"maxInstances": 1024}, "golden": golden}
    extra = {key: manifest.pop(key) for key in ("reference", "background") if key in manifest}
    write_manifest(directory, {**head, "kind": "tabular", **manifest, **tail, **extra})
    fixture = {"source": source, "tolerance": tolerance, "instances": rows, "outputs": outputs}
    (FIXTURES / f"{name}.json").write_text(json.dumps(fixture) + "\n")
    size = sum(path.stat().st_size for path in directory.iterdir())
    print(f"{name}: {size / 1024:.0f} KiB")


def dense(model):
    """The layers of a linear model or a perceptron as safetensors, outputs × inputs."""
    if hasattr(model, "coefs_"):
        layers = [(weight.T, bias) for weight, bias in zip(model.coefs_, model.intercepts_)]
    else:
        layers = [(np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_))]
    tensors = {}
    for index, (weight, bias) in enumerate(layers):
        tensors[f"layers.{index}.weight"] = np.ascontiguousarray(weight, dtype=np.float32)
        tensors[f"layers.{index}.bias"] = np.ascontiguousarray(bias, dtype=np.float32)
    path = MODELS / "weights.tmp"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    content = path.read_bytes()
    path.unlink()
    return {"model.safetensors": content}


def background(prepared, names):
    means = np.asarray(prepared, dtype=np.float64).mean(axis=0)
    return {"means": dict(zip(names, means.round(9).tolist()))}


def candle_diabetes(name, model, network, scaler, step):
    frame, target = numbers(load_diabetes(scaled=False))
    features = list(frame.columns)
    pipeline = make_pipeline(scaler, model).fit(frame, target)
    manifest = {
        "task": "regression",
        "inputs": numeric_inputs(frame),
        "preprocessing": [{"step": "order", "features": features}, step(pipeline[0])],
        "network": {**network, "weights": "model.safetensors"},
        "outputs": {"unit": "progression after a year"},
        "reference": reference(frame, bins(pipeline.predict(frame))),
        "background": background(pipeline[0].transform(frame), features),
    }
    outputs = pipeline.predict(frame)[:, None]
    what = f"Progression of diabetes (scikit-learn's data set) by {type(model).__name__}."
    record(name, what, manifest, frame, outputs, "scikit-learn predict", 1e-3, dense(model))


def standard(scaler):
    return {"step": "standardScale", "mean": scaler.mean_.tolist(), "scale": scaler.scale_.tolist()}


def min_max(scaler):
    low, high = scaler.data_min_.tolist(), scaler.data_max_.tolist()
    return {"step": "minMaxScale", "min": low, "max": high, "range": list(scaler.feature_range)}


def candle_cancer():
    frame, target = numbers(load_breast_cancer())
    model = MLPClassifier(hidden_layer_sizes=(12, 5), activation="logistic", max_iter=2000, random_state=3)
    pipeline = make_pipeline(RobustScaler(), model).fit(frame, target)
    robust = pipeline[0]
    manifest = {
        "task": "classification",
        "inputs": numeric_inputs(frame),
        "preprocessing": [
            {"step": "order", "features": list(frame.columns)},
            {"step": "robustScale", "center": robust.center_.tolist(), "scale": robust.scale_.tolist()},
        ],
        "network": {"architecture": "mlp", "activation": "logistic", "weights": "model.safetensors"},
        "outputs": {"labels": ["malignant", "benign"]},
    }
    outputs, source = pipeline.predict_proba(frame), "scikit-learn predict_proba"
    what = "Breast cancer (scikit-learn's data set) by a perceptron with one logistic output."
    record("cancer-mlp", what, dict(manifest), frame, outputs, source, 1e-5, dense(model))
    # The same weights behind the same preprocessing as a graph: which engine is faster?
    types = [("X", FloatTensorType([None, len(frame.columns)]))]
    graph = to_onnx(model, initial_types=types, options={"zipmap": False}, target_opset=OPSET, name="model")
    output = {"name": "probabilities", "holds": "probabilities"}
    manifest["network"] = {"architecture": "onnx", "graph": "model.onnx", "outputs": [output]}
    what += " As a graph."
    record("cancer-mlp-graph", what, manifest, frame, outputs, source, 1e-5, {"model.onnx": graph.SerializeToString()})


def candle_passengers():
    frame, target = passengers()
    frame = with_gaps(frame)
    columns = ColumnTransformer(
        [
            ("number", make_pipeline(SimpleImputer(strategy="median"), MinMaxScaler()), ["age", "fare"]),
            ("class", OneHotEncoder(drop="first", sparse_output=False), ["class"]),
            ("meal", OrdinalEncoder(categories=[["none", "small", "large"]]), ["meal"]),
            ("port", make_pipeline(SimpleImputer(strategy="most_frequent", missing_values=None),
                                   OneHotEncoder(sparse_output=False)), ["port"]),
        ]
    )  # fmt: skip
    model = LogisticRegression(max_iter=1000)
    pipeline = make_pipeline(columns, model).fit(frame, target)
    number, ports = columns.named_transformers_["number"], columns.named_transformers_["port"]
    port_names = ports[1].categories_[0].tolist()
    manifest = {
        "task": "classification",
        "inputs": [
            {"name": "age", "type": "number", "min": 0, "max": 130, "unit": "years", "nullable": True},
            {"name": "fare", "type": "number", "min": 0, "nullable": False},
            {"name": "class", "type": "integer", "nullable": False, "allowed": [1, 2, 3]},
            {"name": "meal", "type": "string", "nullable": False, "allowed": ["none", "small", "large"]},
            {"name": "port", "type": "string", "nullable": True, "allowed": port_names},
        ],
        "preprocessing": [
            {"step": "impute", "values": {"age": number[0].statistics_[0].item(), "port": str(ports[0].statistics_[0])}},
            {"step": "oneHot", "categories": {"class": [1, 2, 3]}, "drop": "first"},
            {"step": "ordinal", "categories": {"meal": ["none", "small", "large"]}},
            {"step": "oneHot", "categories": {"port": port_names}},
            {"step": "order", "features": ["age", "fare", "class", "meal", "port"]},
            {**min_max(number[1]), "features": ["age", "fare"]},
        ],
        "network": {"architecture": "linear", "weights": "model.safetensors"},
        "outputs": {"labels": ["no", "yes"]},
        "reference": reference(
            frame.assign(**{"class": frame["class"].astype(str)}),
            shares(np.array(["no", "yes"])[pipeline.predict(frame)]),
        ),
        "background": background(
            columns.transform(frame), ["age", "fare", "class=2", "class=3", "meal", *(f"port={name}" for name in port_names)]
        ),
    }
    what = "Who pays for a meal, of made-up passengers: every encoder, with missing values."
    record("passengers-logistic", what, manifest, frame, pipeline.predict_proba(frame), "scikit-learn predict_proba", 1e-5, dense(model))


def onnx_matrix(name, description, frame, target, model, labels, options, output, graph=None, tolerance=1e-5):
    """A graph that takes one matrix of 32-bit floats."""
    model.fit(frame.to_numpy(np.float32), target)
    x = frame.to_numpy(np.float32)
    if graph is None:
        types = [("X", FloatTensorType([None, x.shape[1]]))]
        graph = to_onnx(model, initial_types=types, options=options, target_opset=OPSET, name="model")
    else:
        graph = graph(model, x.shape[1])
    if labels is None:
        task, outputs, source = "regression", model.predict(x)[:, None], "predict"
    elif output["holds"] == "label":
        task, source = "classification", "predict"
        outputs = np.array([[float(label == found) for label in labels] for found in model.predict(x)])
    else:
        task, outputs, source = "classification", model.predict_proba(x), "predict_proba"
    manifest = {
        "task": task,
        "inputs": numeric_inputs(frame),
        "preprocessing": [{"step": "order", "features": list(frame.columns)}],
        "network": {"architecture": "onnx", "graph": "model.onnx", "outputs": [output]},
        "outputs": {} if labels is None else {"labels": labels},
    }
    framework = type(model).__module__.split(".")[0]
    record(name, description, manifest, frame, outputs, f"{framework} {source}", tolerance, {"model.onnx": graph.SerializeToString()})


def onnx_models():
    iris, kinds = numbers(load_iris())
    names = load_iris().target_names
    # The default of skl2onnx: probabilities as a sequence of maps, by the classes' numbers or
    # names.
    forest = RandomForestClassifier(n_estimators=12, max_depth=4, random_state=1)
    onnx_matrix("iris-forest", "Iris by a forest; probabilities in maps by number.", iris, kinds, forest, names.tolist(), None,
                {"name": "output_probability", "holds": "probabilities"})  # fmt: skip
    logistic = LogisticRegression(max_iter=2000)
    onnx_matrix("iris-logistic", "Iris by logistic regression; probabilities in maps by name.", iris, names[kinds], logistic,
                names.tolist(), None, {"name": "output_probability", "holds": "probabilities"})  # fmt: skip
    onnx_matrix("iris-svm", "Iris by a linear support vector machine, which has labels and no probabilities.", iris, names[kinds],
                LinearSVC(random_state=1), names.tolist(), None, {"name": "label", "holds": "label"})  # fmt: skip

    cancer, malignant = numbers(load_breast_cancer())
    labels = ["malignant", "benign"]
    boosting = GradientBoostingClassifier(n_estimators=20, max_depth=3, random_state=1)
    onnx_matrix("cancer-boosting", "Breast cancer by scikit-learn's gradient boosting.", cancer, malignant, boosting, labels,
                {"zipmap": False}, {"name": "probabilities", "holds": "probabilities"})  # fmt: skip
    tools = lambda convert: lambda model, width: convert(model, initial_types=[("X", ToolsFloat([None, width]))], target_opset=15, name="model")
    xgboost = XGBClassifier(n_estimators=20, max_depth=3, random_state=1, n_jobs=1)
    onnx_matrix("cancer-xgboost", "Breast cancer by XGBoost.", cancer, malignant, xgboost, labels, None,
                {"name": "probabilities", "holds": "probabilities"}, tools(convert_xgboost))  # fmt: skip
    lightgbm = LGBMClassifier(n_estimators=20, max_depth=3, random_state=1, n_jobs=1, verbose=-1)
    onnx_matrix("cancer-lightgbm", "Breast cancer by LightGBM.", cancer, malignant, lightgbm, labels, None,
                {"name": "probabilities", "holds": "probabilities"}, tools(convert_lightgbm))  # fmt: skip

    diabetes, progression = numbers(load_diabetes(scaled=False))
    regressor = GradientBoostingRegressor(n_estimators=20, max_depth=3, random_state=1)
    onnx_matrix("diabetes-boosting", "Progression of diabetes by gradient boosting.", diabetes, progression, regressor, None, None,
                {"name": "variable"}, tolerance=1e-3)  # fmt: skip


def onnx_passengers():
    """Texts and numbers: the graph has an input for each field, and does the encoding itself."""
    frame, target = passengers()
    columns = ColumnTransformer(
        [
            ("number", StandardScaler(), ["age", "fare"]),
            ("text", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["meal", "port"]),
        ]
    )
    frame = frame.drop(columns="class")
    pipeline = make_pipeline(columns, RandomForestClassifier(n_estimators=10, max_depth=4, random_state=1)).fit(frame, target)
    types = [(n, StringTensorType([None, 1]) if n in ("meal", "port") else FloatTensorType([None, 1])) for n in frame]
    graph = to_onnx(pipeline, initial_types=types, options={"zipmap": False}, target_opset=OPSET, name="model")
    gaps = with_gaps(frame)
    imputed = {"age": 33.0, "port": "Southampton"}
    manifest = {
        "task": "classification",
        "inputs": [
            {"name": "age", "type": "number", "min": 0, "max": 130, "nullable": True},
            {"name": "fare", "type": "number", "min": 0, "nullable": False},
            {"name": "meal", "type": "string", "nullable": False, "allowed": ["none", "small", "large"]},
            {"name": "port", "type": "string", "maxLength": 40, "nullable": True},
        ],
        "preprocessing": [{"step": "impute", "values": imputed}],
        "network": {
            "architecture": "onnx", "graph": "model.onnx", "outputs": [{"name": "probabilities", "holds": "probabilities"}]
        },
        "outputs": {"labels": ["no", "yes"]},
    }  # fmt: skip
    gaps.loc[3, "port"] = "Atlantis"  # a port that the graph has not seen
    outputs = pipeline.predict_proba(gaps.fillna(imputed))
    record("passengers-forest", "The passengers by a forest on texts and numbers.", manifest, gaps, outputs,
           "scikit-learn predict_proba", 1e-5, {"model.onnx": graph.SerializeToString()})  # fmt: skip


def main():
    candle_diabetes("diabetes-ridge", Ridge(), {"architecture": "linear"}, StandardScaler(), standard)
    perceptron = MLPRegressor(hidden_layer_sizes=(24,), activation="tanh", max_iter=4000, random_state=5)
    candle_diabetes("diabetes-mlp", perceptron, {"architecture": "mlp", "activation": "tanh"}, MinMaxScaler((-1, 1)), min_max)
    candle_cancer()
    candle_passengers()
    onnx_models()
    onnx_passengers()


if __name__ == "__main__":
    main()
