//! Holds real replies against the OpenAPI document that the program serves.

use serde_json::Value;
use std::collections::BTreeSet;

/// The document, and which of its replies were seen.
pub struct Contract {
    document: Value,
    seen: BTreeSet<(String, String, u16)>,
}

/// A reply of a server.
pub struct Reply {
    pub status: u16,
    pub content_type: String,
    pub retry_after: Option<String>,
    pub body: Vec<u8>,
}

impl Reply {
    pub async fn read(response: reqwest::Response) -> Reply {
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        Reply {
            status: response.status().as_u16(),
            content_type: header("content-type").unwrap_or_default(),
            retry_after: header("retry-after"),
            body: response.bytes().await.unwrap().to_vec(),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The stable word of a failure.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Contract {
    pub fn new(document: Value) -> Contract {
        assert_eq!(document["openapi"], "3.1.0");
        Contract { document, seen: BTreeSet::new() }
    }

    /// Checks one reply to `method` on the document's `path`.
    pub fn check(&mut self, method: &str, path: &str, reply: &Reply) {
        let what = format!("{method} {path}: {} {}", reply.status, String::from_utf8_lossy(&reply.body));
        let item = self.resolve(&self.document["paths"][path]);
        let operation = &item[method];
        assert!(operation.is_object(), "{what}: the operation is not in the document");
        let response = self.resolve(&operation["responses"][reply.status.to_string()]);
        assert!(response.is_object(), "{what}: the status is not in the document");
        if response["headers"]["Retry-After"].is_object() {
            let seconds = reply.retry_after.as_ref().and_then(|text| text.parse::<u32>().ok());
            assert!(seconds.is_some_and(|seconds| seconds > 0), "{what}: Retry-After is {:?}", reply.retry_after);
        }
        let (kind, media) = response["content"].as_object().unwrap().iter().next().unwrap();
        assert!(reply.content_type.starts_with(kind.as_str()), "{what}: the content type is {}", reply.content_type);
        if kind == "application/json" {
            let value: Value = serde_json::from_slice(&reply.body).unwrap_or_else(|error| panic!("{what}: {error}"));
            self.conforms(&media["schema"], &value).unwrap_or_else(|fault| panic!("{what}: {fault}"));
        }
        self.seen.insert((path.to_owned(), method.to_owned(), reply.status));
    }

    /// Whether a body is one that the document allows.
    pub fn conforms_to(&self, schema: &str, value: &Value) -> Result<(), String> {
        self.conforms(&self.document["components"]["schemas"][schema], value)
    }

    /// Replies of the document that no test has brought about.
    pub fn unseen(&self) -> Vec<String> {
        let mut unseen = Vec::new();
        for (path, item) in self.document["paths"].as_object().unwrap() {
            for (method, operation) in self.resolve(item).as_object().unwrap() {
                for status in operation["responses"].as_object().unwrap().keys() {
                    let seen = (path.clone(), method.clone(), status.parse().unwrap());
                    if !self.seen.contains(&seen) {
                        unseen.push(format!("{method} {path} {status}"));
                    }
                }
            }
        }
        unseen
    }

    fn resolve<'v>(&'v self, value: &'v Value) -> &'v Value {
        match value["$ref"].as_str() {
            Some(reference) => {
                self.document.pointer(reference.trim_start_matches('#')).expect("a reference that leads somewhere")
            }
            None => value,
        }
    }

    /// The part of JSON Schema that the document uses; a keyword outside of it is a fault of the document.
    fn conforms(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let schema = self.resolve(schema);
        for keyword in schema.as_object().ok_or("no schema")?.keys() {
            let known = [
                "type",
                "required",
                "properties",
                "additionalProperties",
                "items",
                "enum",
                "minLength",
                "maxItems",
                "description",
            ];
            if !known.contains(&keyword.as_str()) {
                return Err(format!("{keyword} is a keyword that this check does not know"));
            }
        }
        let fits = match schema["type"].as_str() {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => {
                value.as_str().is_some_and(|text| text.len() as u64 >= schema["minLength"].as_u64().unwrap_or(0))
            }
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("boolean") => value.is_boolean(),
            _ => return Err("a schema without a type".to_owned()),
        };
        if !fits {
            return Err(format!("{value} is no {}", schema["type"]));
        }
        if let Some(words) = schema["enum"].as_array()
            && !words.contains(value)
        {
            return Err(format!("{value} is none of {words:?}"));
        }
        if let (Some(items), Some(elements)) = (schema.get("items"), value.as_array()) {
            elements.iter().try_for_each(|element| self.conforms(items, element))?;
        }
        let Some(fields) = value.as_object() else { return Ok(()) };
        for name in schema["required"].as_array().into_iter().flatten() {
            if !fields.contains_key(name.as_str().unwrap()) {
                return Err(format!("{name} is missing"));
            }
        }
        for (name, field) in fields {
            match schema["properties"].get(name) {
                Some(schema) => self.conforms(schema, field).map_err(|fault| format!("{name}: {fault}"))?,
                None if schema["additionalProperties"] == Value::Bool(false) => {
                    return Err(format!("{name} is not in the document"));
                }
                None => {}
            }
        }
        Ok(())
    }
}
