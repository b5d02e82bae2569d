"""What people would write in place of the service, for benchmarks/service.py.

`uvicorn --factory service_baselines:pipeline`, or `:compiled`.
"""

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, create_model

from mle_project.artifact.predictor import Predictor
from mle_project.core.request_model import request_model

FOLDER = Path(os.environ["MODEL"])


def request_type(predictor: Predictor) -> type[BaseModel]:
    record: Any = request_model(predictor.contract)
    return create_model("Request", records=(list[record], ...))


def pipeline() -> FastAPI:
    """pydantic records, a DataFrame, the pickled scikit-learn pipeline."""
    import joblib
    import pandas as pd

    from mle_project.core.arrays import feature_frame

    app = FastAPI()
    predictor = Predictor(FOLDER)
    model = joblib.load(FOLDER / "native.joblib")
    request: Any = request_type(predictor)
    value = predictor.contract.task == "regression"

    @app.post("/predict")
    def predict(body: request) -> Any:
        frame = pd.DataFrame([record.model_dump() for record in body.records])
        x = feature_frame(frame, predictor.contract)
        outputs = model.predict(x) if value else model.predict_proba(x)
        return {"predictions": predictor.format_predictions(outputs), "model": predictor.digest}

    return app


def compiled() -> FastAPI:
    """pydantic records, and the compiled model that the service has."""
    app = FastAPI()
    predictor = Predictor(FOLDER)
    request: Any = request_type(predictor)

    @app.post("/predict")
    async def predict(body: request) -> Any:
        outputs = predictor.predict_records([vars(record) for record in body.records])
        return {"predictions": predictor.format_predictions(outputs), "model": predictor.digest}

    return app
