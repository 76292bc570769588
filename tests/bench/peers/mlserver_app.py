"""MLServer with a custom runtime that calls the TFLite interpreter."""

from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from peer_model import Model


class Runtime(MLModel):
    async def load(self) -> bool:
        self.model = Model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (given,) = payload.inputs
        if given.datatype != "BYTES":
            answer = self.model.predict(NumpyCodec.decode_input(given))
        elif given.name == "text":
            answer = self.model.of_text(StringCodec.decode_input(given)[0])
        else:
            answer = self.model.of_bytes(Base64Codec.decode_input(given)[0])
        outputs = [
            ResponseOutput(name="label", shape=[1], datatype="INT64", data=[answer["label"]]),
            ResponseOutput(name="score", shape=[1], datatype="FP32", data=[answer["score"]]),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
