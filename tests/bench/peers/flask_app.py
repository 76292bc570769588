"""gunicorn + Flask: ``gunicorn -w 2 flask_app:app``."""

from flask import Flask, jsonify, request
from peer_model import Model

app = Flask(__name__)
model = Model()


@app.post("/predict")
def predict():  # type: ignore[no-untyped-def]
    if request.is_json:
        return jsonify(model.of_json(request.get_json()))
    return jsonify(model.of_bytes(request.get_data()))
