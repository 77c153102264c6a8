"""Trains the iris classifier that ships in models/iris/ and writes it as ONNX, byte for byte the same each time.

Run: "$(python3 scripts/environment.py scripts/make_iris.requirements.txt)" scripts/make_iris.py

The data set comes with scikit-learn: 150 flowers, four measurements in centimetres, three species. The labels stay
words, so the model answers BYTES next to FP32 probabilities.
"""

import pathlib

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SEED = 20240901
TARGET = pathlib.Path(__file__).resolve().parent.parent / "models" / "iris" / "model.onnx"


def main():
    flowers = load_iris()
    species = flowers.target_names[flowers.target].astype(str)
    train_x, test_x, train_y, test_y = train_test_split(
        flowers.data.astype(np.float32), species, test_size=0.2, random_state=SEED, stratify=species
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(random_state=SEED)).fit(train_x, train_y)
    model = to_onnx(
        classifier,
        name="iris",
        initial_types=[("measurements", FloatTensorType([None, 4]))],
        final_types=[("species", StringTensorType([None])), ("probabilities", FloatTensorType([None, 3]))],
        options={LogisticRegression: {"zipmap": False}},
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    model.doc_string = "Iris species from sepal length, sepal width, petal length and petal width in centimetres"
    # skl2onnx keeps these in a set, so their order changes from run to run.
    model.opset_import.sort(key=lambda opset: opset.domain)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_bytes(model.SerializeToString(deterministic=True))
    report(classifier, test_x, test_y)


def report(classifier, test_x, test_y):
    """Prints how good the model is, and that ONNX Runtime agrees with scikit-learn about it."""
    session = onnxruntime.InferenceSession(TARGET, providers=["CPUExecutionProvider"])
    labels, probabilities = session.run(["species", "probabilities"], {"measurements": test_x})
    assert list(labels) == list(classifier.predict(test_x))
    assert np.allclose(probabilities, classifier.predict_proba(test_x), atol=1e-5)
    print(f"{TARGET}: {TARGET.stat().st_size} bytes, accuracy {np.mean(labels == test_y):.3f} on {len(test_y)} flowers")


if __name__ == "__main__":
    main()
