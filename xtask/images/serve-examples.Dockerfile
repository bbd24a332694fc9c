# The serving image with the example models inside, for the demo: `model.uri: file:///models/NAME/VERSION`.
# The context is a folder that holds models/NAME/VERSION; a real model comes from a volume instead.
ARG SERVE_IMAGE=localhost/serin-serve:dev
FROM ${SERVE_IMAGE}
LABEL org.opencontainers.image.title="serin-serve-examples" \
      org.opencontainers.image.description="Inference server of Serin with its example models"
COPY models/ /models/
