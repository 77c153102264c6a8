//! Reference 7.4, row by row.

use super::*;
use std::collections::BTreeMap;

/// Resources by kind, namespace and name.
#[derive(Default)]
struct Shelf {
    resources: BTreeMap<(Kind, String, String), Resource>,
    settings: Option<InferenceServiceConfig>,
}

impl Vault for Shelf {
    fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Resource> {
        self.resources.get(&(kind, namespace.to_owned(), name.to_owned()))
    }

    fn settings(&self) -> Option<&InferenceServiceConfig> {
        self.settings.as_ref()
    }
}

impl Shelf {
    fn secret(mut self, name: &str, pairs: &[(&str, &str)], annotations: &[(&str, &str)]) -> Self {
        let string_data = pairs.iter().map(|(key, value)| ((*key).to_owned(), Hidden::from((*value).to_owned()))).collect();
        let mut secret = Secret { string_data, ..Secret::default() };
        secret.metadata.annotations =
            annotations.iter().map(|(key, value)| (format!("serving.kserve.io/{key}"), (*value).to_owned())).collect();
        self.put(Kind::Secret, name, Resource::Secret(Box::new(secret)))
    }

    fn account(mut self, name: &str, secrets: &[&str], role: Option<&str>) -> Self {
        let json = serde_json::json!({ "secrets": secrets.iter().map(|name| serde_json::json!({ "name": name })).collect::<Vec<_>>() });
        let mut account: ServiceAccount = serde_json::from_value(json).unwrap();
        account.metadata.annotations.extend(role.map(|role| (ROLE_ANNOTATION.to_owned(), role.to_owned())));
        self.put(Kind::ServiceAccount, name, Resource::ServiceAccount(Box::new(account)))
    }

    fn config_map(mut self, name: &str, key: &str, text: &str) -> Self {
        let map: ConfigMap = serde_json::from_value(serde_json::json!({ "data": { key: text } })).unwrap();
        self.put(Kind::ConfigMap, name, Resource::ConfigMap(Box::new(map)))
    }

    fn credentials(mut self, json: &str) -> Self {
        let credentials = Some(serde_json::from_str(json).unwrap());
        self.settings = Some(InferenceServiceConfig { credentials, ..InferenceServiceConfig::default() });
        self
    }

    fn put(&mut self, kind: Kind, name: &str, resource: Resource) -> Self {
        self.resources.insert((kind, "ns".to_owned(), name.to_owned()), resource);
        std::mem::take(self)
    }

    /// The variables of a service, as `NAME=value`.
    fn env(&self, service: &str) -> Result<Vec<String>, String> {
        let service = service_of(service);
        let env = env_of(&Asker::service(&service, self), self).map_err(|error| error.to_string())?;
        Ok(env.iter().map(|(name, value)| format!("{name}={value}")).collect())
    }

    fn uri(&self, storage: &str) -> Result<String, String> {
        let service = service_of(&format!(r#"{{"spec":{{"predictor":{{"model":{{"storage":{storage}}}}}}}}}"#));
        let filled = with_storage_uri(&service, self).map_err(|error| error.to_string())?;
        Ok(filled.spec.predictor.model.as_ref().unwrap().storage_uri.clone().unwrap())
    }
}

fn service_of(json: &str) -> InferenceService {
    let mut service: InferenceService = serde_json::from_str(json).unwrap();
    service.metadata.namespace = "ns".to_owned();
    service
}

const PLAIN: &str = r#"{"spec":{"predictor":{}}}"#;
const ANNOTATED: &str = r#"{"metadata":{"annotations":{"serving.kserve.io/storageSecretName":"s"}},"spec":{"predictor":{}}}"#;
const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "word")];

#[test]
fn the_annotations_secret_counts_alone_else_all_of_the_account_and_a_missing_account_is_no_mistake() {
    let shelf = Shelf::default().secret("s", &[("HF_TOKEN", "one")], &[]).secret("t", &KEYS, &[]).account("default", &["t"], None);
    assert_eq!(shelf.env(ANNOTATED).unwrap(), ["HF_TOKEN=one"]);
    assert_eq!(shelf.env(PLAIN).unwrap(), ["AWS_ACCESS_KEY_ID=id", "AWS_SECRET_ACCESS_KEY=word"]);
    let other = r#"{"spec":{"predictor":{"serviceAccountName":"other"}}}"#;
    assert_eq!(shelf.env(other).unwrap(), Vec::<String>::new());
    let both = Shelf::default().secret("s", &[("HF_TOKEN", "one")], &[]).secret("t", &KEYS, &[]).account("default", &["s", "t"], None);
    assert_eq!(both.env(PLAIN).unwrap().len(), 3);
}

#[test]
fn a_secret_that_is_named_and_not_there_is_told_with_its_namespace() {
    let message = Shelf::default().env(ANNOTATED).unwrap_err();
    assert!(message.contains("Secret `s`, which is not there in namespace `ns`"), "{message}");
    let message = Shelf::default().account("default", &["gone"], None).env(PLAIN).unwrap_err();
    assert!(message.contains("ServiceAccount `default` names Secret `gone`"), "{message}");
}

#[test]
fn the_first_key_that_is_there_says_what_kind_a_secret_is() {
    for (pairs, wanted) in [
        (&[("gcloud-application-credentials.json", "{}"), ("HF_TOKEN", "t")] as &[_], &["GOOGLE_SERVICE_ACCOUNT_KEY={}"] as &[&str]),
        (
            &[("AZ_CLIENT_ID", "a"), ("AZ_TENANT_ID", "b"), ("AZ_CLIENT_SECRET", "c")],
            &["AZURE_CLIENT_ID=a", "AZURE_CLIENT_SECRET=c", "AZURE_TENANT_ID=b"],
        ),
        (&[("AZURE_STORAGE_ACCESS_KEY", "k")], &["AZURE_STORAGE_ACCESS_KEY=k"]),
        (&[("https-host", "h.example"), ("headers", "{\"A\":\"b\"}")], &["h.example-headers={\"A\":\"b\"}"]),
        (&[("HDFS_NAMENODE", "n"), ("HDFS_ROOTPATH", "/r"), ("ELSE", "x")], &["HDFS_NAMENODE=n", "HDFS_ROOTPATH=/r"]),
        (&[("HF_TOKEN", "t")], &["HF_TOKEN=t"]),
        (&[("MODELSCOPE_API_TOKEN", "t")], &["MODELSCOPE_API_TOKEN=t"]),
        (&[("GIT_USERNAME", "u"), ("GIT_PASSWORD", "p")], &["GIT_PASSWORD=p", "GIT_USERNAME=u"]),
        (&[(".dockerconfigjson", "{}")], &["OCI_DOCKER_CONFIG_JSON={}"]),
        (&[("else", "x")], &[]),
    ] {
        assert_eq!(Shelf::default().secret("s", pairs, &[]).env(ANNOTATED).unwrap(), wanted);
    }
}

#[test]
fn data_is_base64_and_string_data_wins() {
    let json = r#"{"data":{"HF_TOKEN":"d29yZA==","AWS_SECRET_ACCESS_KEY":"eA=="},"stringData":{"AWS_SECRET_ACCESS_KEY":"y"}}"#;
    let secret: Secret = serde_json::from_str(json).unwrap();
    assert_eq!(value_of(&secret, "HF_TOKEN").as_deref(), Some("word"));
    assert_eq!(value_of(&secret, "AWS_SECRET_ACCESS_KEY").as_deref(), Some("y"));
}

#[test]
fn s3_options_come_from_annotations_then_the_secret_then_the_config_map() {
    let settings = r#"{"s3":{"s3Endpoint":"config:1","s3Region":"config","s3UseHttps":"0","s3VerifySSL":"0","s3UseVirtualBucket":"true",
        "s3UseAccelerate":"true","s3UseAnonymousCredential":"true"}}"#;
    let secret = [KEYS[0], KEYS[1], ("AWS_DEFAULT_REGION", "secret"), ("S3_VERIFY_SSL", "1")];
    let shelf = Shelf::default().credentials(settings).secret("s", &secret, &[("s3-region", "annotation"), ("s3-useaccelerate", "false")]);
    let wanted = [
        "AWS_ACCESS_KEY_ID=id",
        "AWS_DEFAULT_REGION=annotation",
        "AWS_ENDPOINT_URL=http://config:1",
        "AWS_SECRET_ACCESS_KEY=word",
        "S3_ENDPOINT=config:1",
        "S3_USER_VIRTUAL_BUCKET=true",
        "S3_USE_ACCELERATE=false",
        "S3_USE_HTTPS=0",
        "S3_VERIFY_SSL=1",
        "awsAnonymousCredential=true",
    ];
    assert_eq!(shelf.env(ANNOTATED).unwrap(), wanted);
}

#[test]
fn an_endpoints_own_scheme_wins_and_https_is_the_default() {
    for (endpoint, https, url) in
        [("h:1", "0", "http://h:1"), ("h:1", "1", "https://h:1"), ("h", "", "https://h"), ("http://h", "1", "http://h")]
    {
        let shelf = Shelf::default().secret("s", &KEYS, &[("s3-endpoint", endpoint), ("s3-usehttps", https)]);
        let env = shelf.env(ANNOTATED).unwrap();
        assert!(env.contains(&format!("AWS_ENDPOINT_URL={url}")), "{env:?}");
    }
}

#[test]
fn names_of_keys_of_the_secret_and_of_the_annotation_can_be_set() {
    let settings = r#"{"storageSecretNameAnnotation":"example.com/secret","gcs":{"gcsCredentialFileName":"key.json"},
        "s3":{"s3AccessKeyIDName":"user","s3SecretAccessKeyName":"pass"}}"#;
    let service = r#"{"metadata":{"annotations":{"example.com/secret":"s"}},"spec":{"predictor":{}}}"#;
    let s3 = Shelf::default().credentials(settings).secret("s", &[("user", "u"), ("pass", "p")], &[]);
    assert_eq!(s3.env(service).unwrap(), ["AWS_ACCESS_KEY_ID=u", "AWS_SECRET_ACCESS_KEY=p"]);
    let gcs = Shelf::default().credentials(settings).secret("s", &[("key.json", "{}")], &[]);
    assert_eq!(gcs.env(service).unwrap(), ["GOOGLE_SERVICE_ACCOUNT_KEY={}"]);
}

#[test]
fn an_accounts_role_has_s3s_options_without_keys() {
    let shelf = Shelf::default().credentials(r#"{"s3":{"s3Region":"r"}}"#).account("default", &[], Some("arn"));
    assert_eq!(shelf.env(PLAIN).unwrap(), ["AWS_DEFAULT_REGION=r", "AWS_ROLE_ARN=arn"]);
}

#[test]
fn a_ca_bundle_of_a_config_map_is_taken_as_text() {
    let annotations = [("s3-cabundle-configmap", "ca"), ("s3-cabundle", "/etc/ssl/custom/root.pem")];
    let shelf = Shelf::default().secret("s", &KEYS, &annotations).config_map("ca", "root.pem", "PEM");
    assert!(shelf.env(ANNOTATED).unwrap().contains(&"AWS_CA_BUNDLE_PEM=PEM".to_owned()));
    let other_key = Shelf::default().secret("s", &KEYS, &annotations).config_map("ca", "else.pem", "PEM");
    assert!(other_key.env(ANNOTATED).unwrap_err().contains("no key `root.pem`"));
    assert!(Shelf::default().secret("s", &KEYS, &annotations).env(ANNOTATED).unwrap_err().contains("ConfigMap `ca`"));
}

#[test]
fn a_path_becomes_a_uri_by_its_entry_and_parameters_win() {
    let entry = r#"{"type":"s3","bucket":"b","access_key_id":"id","secret_access_key":"word","endpoint_url":"http://e","region":"r","verify_ssl":"0"}"#;
    let shelf =
        Shelf::default().secret("storage-config", &[("mine", entry), ("default", entry), ("default_hdfs", r#"{"type":"hdfs"}"#)], &[]);
    for (storage, uri) in [
        (r#"{"path":"a/b","key":"mine"}"#, "s3://b/a/b"),
        (r#"{"path":"/a/b"}"#, "s3://b/a/b"),
        (r#"{"path":"a","key":"mine","parameters":{"bucket":"other"}}"#, "s3://other/a"),
        (r#"{"path":"a","parameters":{"type":"hdfs"}}"#, "hdfs://a"),
        (r#"{"path":"a","parameters":{"type":"webhdfs"}}"#, "webhdfs://a"),
        (r#"{"path":"a","parameters":{"type":"s3","bucket":"p"}}"#, "s3://p/a"),
    ] {
        assert_eq!(shelf.uri(storage).as_deref(), Ok(uri), "{storage}");
    }
    let service = r#"{"spec":{"predictor":{"model":{"storageUri":"s3://b/a","storage":{"key":"mine","parameters":{"region":"over"}}}}}}"#;
    let wanted =
        ["AWS_ACCESS_KEY_ID=id", "AWS_DEFAULT_REGION=over", "AWS_ENDPOINT_URL=http://e", "AWS_SECRET_ACCESS_KEY=word", "S3_VERIFY_SSL=0"];
    assert_eq!(shelf.env(service).unwrap(), wanted);
}

#[test]
fn entries_that_cannot_be_used_are_told_in_kserves_words_and_without_their_values() {
    let shelf =
        Shelf::default().secret("storage-config", &[("gs", r#"{"type":"gs"}"#), ("bare", r#"{"type":"s3"}"#), ("bad", "word")], &[]);
    for (storage, told) in [
        (r#"{"path":"a","key":"none"}"#, "specified storage key none not found in storage secret storage-config"),
        (r#"{"path":"a"}"#, "unable to determine storage type"),
        (r#"{"path":"a","key":"bare"}"#, "format [s3] requires a bucket but one wasn't found in storage data or parameters"),
        (r#"{"path":"a","key":"gs"}"#, "storage type must be one of [s3 hdfs webhdfs]. storage type [gs] is not supported"),
        (r#"{"path":"a","key":"bad"}"#, "invalid json encountered in key bad of storage secret storage-config"),
    ] {
        let message = shelf.uri(storage).unwrap_err();
        assert!(message.contains(told) && !message.contains("word"), "{message}");
    }
    assert!(Shelf::default().uri(r#"{"path":"a","key":"k"}"#).unwrap_err().contains("can't read storage secret storage-config"));
}
