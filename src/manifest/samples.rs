//! Files in the style of KServe's own samples: each is read without an error and without an unknown field.

/// Every sample with its name.
pub(super) const SAMPLES: &[(&str, &str)] = &[
    (
        "an older framework key",
        r#"
apiVersion: "serving.kserve.io/v1beta1"
kind: "InferenceService"
metadata:
  name: "sklearn-iris"
  annotations:
    serving.kserve.io/autoscalerClass: none
spec:
  predictor:
    serviceAccountName: sa
    sklearn:
      protocolVersion: v2
      runtimeVersion: latest
      storageUri: "gs://kfserving-examples/models/sklearn/1.0/model"
      resources:
        requests: {cpu: 100m, memory: 256Mi}
        limits: {cpu: 1, memory: 1Gi, nvidia.com/gpu: 1}
"#,
    ),
    (
        "a language model",
        r#"
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: huggingface-llama3
spec:
  predictor:
    minReplicas: 1
    maxReplicas: 3
    nodeSelector: {gpu: "true"}
    tolerations:
      - key: nvidia.com/gpu
        operator: Exists
    model:
      modelFormat:
        name: huggingface
        version: "1"
      runtime: kserve-huggingfaceserver
      args: [--model_name=llama3, --model_id=meta-llama/meta-llama-3-8b-instruct]
      env:
        - name: HF_TOKEN
          valueFrom:
            secretKeyRef: {name: hf-secret, key: HF_TOKEN, optional: false}
      envFrom:
        - secretRef: {name: more}
      ports:
        - containerPort: 8080
          name: http1
          protocol: TCP
      volumeMounts:
        - {mountPath: /dev/shm, name: devshm}
      readinessProbe:
        httpGet: {path: /health, port: 8080}
        initialDelaySeconds: 30
    volumes:
      - name: devshm
        emptyDir: {medium: Memory, sizeLimit: 2Gi}
"#,
    ),
    (
        "scaling, batcher, logger and canary",
        r#"
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: torchserve
  labels: {app: demo}
  annotations:
    autoscaling.knative.dev/target: "5"
    serving.kserve.io/enable-tag-routing: "true"
spec:
  predictor:
    minReplicas: 0
    scaleTarget: 1
    scaleMetric: concurrency
    containerConcurrency: 10
    canaryTrafficPercent: 10
    timeout: 60
    batcher:
      maxBatchSize: 32
      maxLatency: 500
    logger:
      mode: all
      url: http://message-dumper.default/
      metadataHeaders: [X-Request-Id]
      storage:
        path: logs
        key: s3
        parameters: {type: s3, bucket: b}
    pytorch:
      storageUri: gs://kfserving-examples/models/torchserve/image_classifier
"#,
    ),
    (
        "keda",
        r#"
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: opt-125m
  annotations:
    serving.kserve.io/deploymentMode: "Standard"
    serving.kserve.io/autoscalerClass: "keda"
spec:
  predictor:
    minReplicas: 1
    maxReplicas: 5
    autoScaling:
      behavior:
        scaleDown: {stabilizationWindowSeconds: 300}
      metrics:
        - type: External
          external:
            metric:
              backend: "prometheus"
              serverAddress: "http://prometheus:9090"
              query: vllm:num_requests_running
            target: {type: Value, value: "2"}
            authenticationRef:
              authModes: basic
              authenticationRef: {name: creds}
        - type: PodMetric
          podmetric:
            metric:
              backend: "opentelemetry"
              metricNames: [vllm:num_requests_running]
              query: "vllm:num_requests_running"
              operationOverTime: avg
            target: {type: Value, value: 4}
        - type: Resource
          resource:
            name: cpu
            target: {type: Utilization, averageUtilization: 50}
    deploymentStrategy:
      type: Recreate
    model:
      modelFormat: {name: huggingface}
      storageUri: hf://facebook/opt-125m
"#,
    ),
    (
        "transformer and explainer",
        r#"
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: art-explainer}
spec:
  predictor:
    containers:
      - name: transformer-container
        image: kserve/image-transformer:latest
        args: [--model_name, cifar10]
        securityContext: {runAsNonRoot: true}
    model:
      modelFormat: {name: pytorch}
      storage:
        key: localMinIO
        path: sklearn/model.joblib
        schemaPath: null
        parameters: {type: s3}
  transformer:
    minReplicas: 1
    containers:
      - image: kserve/image-transformer:latest
        name: kserve-container
        command: [python, -m, model]
        env: [{name: STORAGE_URI, value: "gs://x"}]
  explainer:
    minReplicas: 1
    art:
      type: SquareAttack
      name: explainer
      config: {nb_classes: "10"}
"#,
    ),
    (
        "standard canary, several places, several machines",
        r#"
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
  annotations: {serving.kserve.io/deploymentMode: Standard}
spec:
  predictor:
    name: stable
    storageContainerName: mine
    storageUris:
      - uri: hf://a/b
        mountPath: /mnt/models/base
      - uri: pvc://claim/adapter
        mountPath: /mnt/models/adapter
    model:
      modelFormat: {name: huggingface}
      confidential: {enabled: true, resourceId: "kbs:///a"}
    workerSpec:
      pipelineParallelSize: 2
      tensorParallelSize: 4
      containers:
        - name: worker-container
          resources: {limits: {nvidia.com/gpu: "1"}}
  canary:
    - trafficPercent: 10
      predictor:
        name: next
        model:
          modelFormat: {name: huggingface}
          storageUri: hf://a/c
"#,
    ),
    (
        "runtimes",
        r#"
apiVersion: serving.kserve.io/v1alpha1
kind: ClusterServingRuntime
metadata:
  name: kserve-tritonserver
spec:
  annotations:
    prometheus.kserve.io/port: "8002"
    prometheus.kserve.io/path: "/metrics"
  supportedModelFormats:
    - name: tensorrt
      version: "8"
      autoSelect: true
      priority: 1
    - name: onnx
      version: "1"
  protocolVersions: [v2, grpc-v2]
  containers:
    - name: kserve-container
      image: tritonserver:replace
      args:
        - tritonserver
        - --model-store=/mnt/models
        - --grpc-port=9000
      securityContext:
        allowPrivilegeEscalation: false
        capabilities: {drop: [ALL]}
      resources:
        requests: {cpu: "1", memory: 2Gi}
  hostIPC: false
---
apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata:
  name: mlserver
  namespace: team
spec:
  multiModel: true
  disabled: false
  grpcEndpoint: "port:8085"
  grpcDataEndpoint: "port:8001"
  replicas: 1
  supportedModelFormats: [{name: sklearn, version: "0", autoSelect: true}]
  builtInAdapter:
    serverType: mlserver
    runtimeManagementPort: 8001
    memBufferBytes: 134217728
    modelLoadingTimeoutMillis: 90000
  storageHelper: {disabled: true}
  workerSpec:
    pipelineParallelSize: 1
    tensorParallelSize: 1
    containers: [{name: worker-container}]
  affinity:
    nodeAffinity: {}
  containers: [{name: kserve-container, image: mlserver}]
"#,
    ),
];
