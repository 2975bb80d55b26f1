//! `kindling serve` as its clients meet it: the three forms of `/predict`, KServe's protocol, what
//! is refused and how, batches, reload, and the end.
//!
//! `tritonclient[http]` is run where `KINDLING_PYTHON` names a Python that has it; `.ci/run`
//! installs it.

#![expect(clippy::print_stderr, reason = "what was not compared")]

#[path = "test_folder/http.rs"]
mod http;
#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use http::{Reply, Served};
use test_folder::{TestFolder, code, error, refused, said};

/// A folder with a trained checkpoint, `model.ckpt`.
fn trained(name: &str) -> TestFolder {
    let place = TestFolder::new(name);
    let run = place.train("a", &["--epochs", "1"]);
    assert_eq!(code(&run), 0, "{}", error(&run));
    std::fs::copy(place.checkpoint("a"), place.path("model.ckpt")).unwrap();
    place
}

fn image(place: &TestFolder, class: &str) -> Vec<u8> {
    std::fs::read(place.path(&format!("data/val/{class}/0001.png"))).unwrap()
}

/// What `kindling predict` says to an image: class and probability, best first.
fn predicted(place: &TestFolder, class: &str) -> Vec<(String, f64)> {
    let path = format!("data/val/{class}/0001.png");
    let output = place.run(&["predict", &path, "--checkpoint", "model.ckpt", "--format", "json"]);
    let all: Value = serde_json::from_str(&said(&output)).unwrap();
    let guesses = all[0]["guesses"].as_array().unwrap();
    guesses
        .iter()
        .map(|g| (g["class"].as_str().unwrap().to_owned(), g["probability"].as_f64().unwrap()))
        .collect()
}

/// The answer for an image is that of `predict`.
#[track_caller]
fn alike(answer: &Value, expected: &[(String, f64)]) {
    let predictions = answer["predictions"].as_array().unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(predictions.len(), expected.len(), "{answer}");
    for (own, (class, probability)) in predictions.iter().zip(expected) {
        assert_eq!(own["label"], json!(class), "{answer}");
        assert!((own["probability"].as_f64().unwrap() - probability).abs() < 1e-5, "{answer}");
    }
}

#[track_caller]
fn refusal(reply: &Reply, status: u16, words: &[&str]) {
    let text = reply.text();
    assert_eq!(reply.status, status, "{text}");
    let error = reply.json()["error"].as_str().unwrap_or_else(|| panic!("{text}")).to_owned();
    for word in words {
        assert!(error.contains(word), "`{word}` in: {error}");
    }
    assert!(!error.ends_with('.') && !error.contains("panicked"), "{error}");
}

/// Mutations caught, each alone: images of a form in another order; the model's name ignored;
/// `topk` ignored.
#[test]
fn the_three_forms_of_predict_give_what_the_command_gives() {
    let place = trained("serve-predict");
    let served = Served::start(&place, &["model.ckpt", "again=model.ckpt"]);
    let [bag, trouser] = ["bag", "trouser"].map(|class| predicted(&place, class));
    let raw = served.post("/predict", &[], &image(&place, "bag"));
    assert_eq!(raw.status, 200, "{}", raw.text());
    alike(&raw.json(), &bag);
    assert_eq!(raw.json()["model"], json!("model"));
    assert!(raw.json()["milliseconds"]["infer"].as_f64().unwrap() > 0.0);

    let two = served.post("/predict?topk=2&model=again", &[], &image(&place, "trouser"));
    alike(&two.json(), &trouser[..2]);
    assert_eq!(two.json()["model"], json!("again"));

    let mut form = Vec::new();
    for class in ["bag", "trouser"] {
        let head = format!(
            "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{class}.png\"\r\n\r\n"
        );
        form.extend(head.into_bytes());
        form.extend(image(&place, class));
        form.extend(b"\r\n");
    }
    form.extend(b"--XX--\r\n");
    let kind = ("Content-Type", "multipart/form-data; boundary=XX");
    let reply = served.post("/predict", &[kind], &form);
    alike(&reply.json()["images"][0], &bag);
    alike(&reply.json()["images"][1], &trouser);

    let kind = ("Content-Type", "application/json");
    let encoded = STANDARD.encode(image(&place, "bag"));
    let body = json!({ "image": encoded }).to_string();
    alike(&served.post("/predict", &[kind], body.as_bytes()).json(), &bag);
    let body = json!({ "images": [format!("data:image/png;base64,{encoded}")] }).to_string();
    alike(&served.post("/predict", &[kind], body.as_bytes()).json()["images"][0], &bag);

    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&image(&place, "bag")).unwrap();
    let zipped = ("Content-Encoding", "gzip");
    alike(&served.post("/predict", &[zipped], &packed.finish().unwrap()).json(), &bag);
    assert_eq!(served.end(), 0);
}

/// Mutations caught, each alone: the pixels counted after decoding; a body read without a limit; a
/// damaged image taken for another kind; the fallback without JSON.
#[test]
fn bad_requests_get_their_status_and_one_sentence() {
    let place = trained("serve-refuse");
    let served = Served::start(
        &place,
        &["model.ckpt", "--max-megabytes", "0.02", "--max-megapixels", "0.5", "--max-images", "2"],
    );
    let post = |body: &[u8]| served.post("/predict", &[], body);
    let png = image(&place, "bag");
    refusal(&post(b""), 422, &["empty"]);
    refusal(&post(b"these are words"), 415, &["not an image of a known format"]);
    refusal(&post(b"\0\0\0\x18ftypheic\0\0\0\0"), 415, &["HEI"]);
    refusal(&post(&png[..png.len() / 2]), 422, &["truncated"]);
    // A header that promises 65535 x 65535 pixels.
    let mut bomb = png.clone();
    bomb[16..24].copy_from_slice(&[0, 0, 255, 255, 0, 0, 255, 255]);
    let checksum = crc32fast::hash(&bomb[12..29]).to_be_bytes();
    bomb[29..33].copy_from_slice(&checksum);
    refusal(&post(&bomb), 413, &["65535 x 65535 pixels", "500000"]);
    refusal(&post(&vec![0; 20_001]), 413, &["more than 20000 bytes"]);
    let declared =
        served.raw(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000000\r\n\r\n");
    assert!(declared.starts_with("HTTP/1.1 413"), "{declared}");
    let mut chunked =
        b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n7000\r\n".to_vec();
    chunked.extend(vec![0; 0x7000]);
    chunked.extend(b"\r\n0\r\n\r\n");
    let chunked = served.raw(&chunked);
    assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");
    // 4 MB of zeros in 4 kB.
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&vec![0; 4_000_000]).unwrap();
    let packed = packed.finish().unwrap();
    let zipped = ("Content-Encoding", "gzip");
    refusal(&served.post("/predict", &[zipped], &packed), 413, &["20000"]);
    refusal(&served.post("/predict", &[zipped], b"no gzip"), 400, &["cannot be decompressed"]);
    refusal(&served.post("/predict", &[("Content-Encoding", "br")], &png), 415, &["gzip"]);
    let kind = ("Content-Type", "application/json");
    refusal(&served.post("/predict", &[kind], b"{\"image\": 3}"), 400, &["the JSON", "string"]);
    refusal(&served.post("/predict", &[kind], b"{\"image\": \"?\"}"), 400, &["not base64"]);
    refusal(&served.post("/predict", &[kind], b"{\"url\": \"http://a\"}"), 400, &["url"]);
    let three = json!({ "images": ["AA==", "AA==", "AA=="] }).to_string();
    refusal(&served.post("/predict", &[kind], three.as_bytes()), 413, &["at most 2"]);
    let second = json!({ "images": [STANDARD.encode(&png), "AA=="] }).to_string();
    refusal(&served.post("/predict", &[kind], second.as_bytes()), 415, &["image 2: "]);
    let form = ("Content-Type", "multipart/form-data; boundary=XX");
    refusal(&served.post("/predict", &[form], b"nothing"), 400, &["form"]);
    refusal(&served.post("/predict?topk=many", &[], &png), 400, &["topk=K"]);
    refusal(&served.post("/predict?model=b", &[], &png), 404, &["no model `b`", "model"]);
    refusal(&served.get("/nothing"), 404, &["/nothing: no such address"]);
    refusal(&served.get("/predict"), 405, &["GET is not for this address"]);
    // The server is none the worse.
    assert_eq!(post(&png).status, 200);
    assert_eq!(served.end(), 0);
}

fn infer(json: &Value, tensor: &[u8]) -> (Vec<u8>, String) {
    let mut body = json.to_string().into_bytes();
    let length = body.len().to_string();
    body.extend(tensor);
    (body, length)
}

/// Mutations caught, each alone: the id omitted; probabilities in place of logits; `binary_data` of
/// an output without effect; the length of a string omitted.
#[test]
fn kserve_takes_tensors_in_json_and_in_binary() {
    let place = trained("serve-kserve");
    let served = Served::start(&place, &["m=model.ckpt"]);
    for path in ["/v2/health/live", "/v2/health/ready", "/v2/models/m/ready", "/healthz", "/readyz"]
    {
        assert_eq!(served.get(path).status, 200, "{path}");
    }
    let metadata = served.get("/v2/models/m").json();
    assert_eq!(metadata["inputs"][0]["shape"], json!([-1, 3, 32, 32]));
    assert_eq!(
        metadata["outputs"][0],
        json!({"name": "logits", "datatype": "FP32", "shape": [-1, 3]})
    );
    assert_eq!(served.get("/v2/models/m/versions/1").json(), metadata);
    refusal(&served.get("/v2/models/m/versions/2"), 404, &["version 2"]);
    refusal(&served.get("/v2/models/other"), 404, &["no model `other`"]);
    assert!(served.get("/v2").json()["extensions"].as_array().unwrap().len() >= 2);

    // An encoded image, binary in and binary out.
    let png = image(&place, "bag");
    let mut tensor = (png.len() as u32).to_le_bytes().to_vec();
    tensor.extend(&png);
    let input = json!({"name": "image", "shape": [1], "datatype": "BYTES",
        "parameters": {"binary_data_size": tensor.len()}});
    let request = json!({"id": "7", "inputs": [input], "parameters": {"binary_data_output": true}});
    let (body, length) = infer(&request, &tensor);
    let reply =
        served.post("/v2/models/m/infer", &[("Inference-Header-Content-Length", &length)], &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let head: usize = reply.header("inference-header-content-length").unwrap().parse().unwrap();
    let answer: Value = serde_json::from_slice(&reply.body[..head]).unwrap();
    assert_eq!((&answer["id"], &answer["model_name"]), (&json!("7"), &json!("m")));
    assert_eq!(answer["outputs"][0]["parameters"]["binary_data_size"], json!(12));
    let floats: Vec<f64> = reply.body[head..]
        .chunks_exact(4)
        .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
        .collect();
    let (logits, probabilities) = floats.split_at(3);
    let sum: f64 = logits.iter().map(|v| v.exp()).sum();
    for (logit, probability) in logits.iter().zip(probabilities) {
        assert!((logit.exp() / sum - probability).abs() < 1e-5, "{floats:?}");
    }
    let best = predicted(&place, "bag");
    assert!((probabilities.iter().copied().fold(0.0, f64::max) - best[0].1).abs() < 1e-5);

    // Prepared images in JSON, the classes out.
    let zeros = vec![0.0; 2 * 3 * 32 * 32];
    let input =
        json!({"name": "input", "shape": [2, 3, 32, 32], "datatype": "FP32", "data": zeros});
    let output = json!({"name": "probabilities", "parameters": {"classification": 1}});
    let request = json!({"inputs": [input], "outputs": [output]});
    let reply = served.post("/v2/models/m/infer", &[], request.to_string().as_bytes()).json();
    let output = &reply["outputs"][0];
    assert_eq!(
        (&output["shape"], &output["datatype"]),
        (&json!([2, 1]), &json!("BYTES")),
        "{reply}"
    );
    let text = output["data"][0].as_str().unwrap();
    let parts: Vec<&str> = text.split(':').collect();
    assert!(parts.len() == 3 && ["bag", "sandal", "trouser"].contains(&parts[2]), "{text}");

    // The same in binary: four bytes of length, then the text.
    let zeros = vec![0_u8; 4 * 3 * 32 * 32];
    let input = json!({"name": "input", "shape": [1, 3, 32, 32], "datatype": "FP32",
        "parameters": {"binary_data_size": zeros.len()}});
    let output =
        json!({"name": "logits", "parameters": {"classification": 2, "binary_data": true}});
    let (body, length) = infer(&json!({"inputs": [input], "outputs": [output]}), &zeros);
    let header = ("Inference-Header-Content-Length", &*length);
    let reply = served.post("/v2/models/m/infer", &[header], &body);
    let head: usize = reply.header("inference-header-content-length").unwrap().parse().unwrap();
    let mut rest = &reply.body[head..];
    for _ in 0..2 {
        let (length, more) = rest.split_first_chunk::<4>().unwrap();
        let (text, more) = more.split_at(u32::from_le_bytes(*length) as usize);
        assert_eq!(String::from_utf8_lossy(text).matches(':').count(), 2, "{text:?}");
        rest = more;
    }
    assert!(rest.is_empty());

    let refuse = |input: Value, words: &[&str]| {
        let body = json!({"inputs": [input]}).to_string();
        refusal(&served.post("/v2/models/m/infer", &[], body.as_bytes()), 400, words);
    };
    refuse(json!({"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}), &["input `x`"]);
    refuse(
        json!({"name": "input", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [1]}),
        &["[1, 3, 8, 8]", "[n, 3, 32, 32]"],
    );
    refuse(
        json!({"name": "input", "shape": [1, 3, 32, 32], "datatype": "FP16", "data": [1]}),
        &["FP16", "FP32"],
    );
    refuse(
        json!({"name": "input", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": [1, 2]}),
        &["2 numbers", "3072"],
    );
    refuse(json!({"name": "image", "shape": [1], "datatype": "BYTES", "data": ["?"]}), &["base64"]);
    assert_eq!(served.end(), 0);
}

/// The client that KServe's and Triton's users have.
#[test]
fn tritonclient_works_unchanged() {
    let Ok(python) = std::env::var("KINDLING_PYTHON") else {
        eprintln!("KINDLING_PYTHON is not set: tritonclient was not run");
        return;
    };
    let place = trained("serve-triton");
    let served = Served::start(&place, &["m=model.ckpt"]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/triton_client.py");
    let output = Command::new(python)
        .arg(script)
        .arg(format!("127.0.0.1:{}", served.port))
        .arg(place.path("data/val/bag/0001.png"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}{}", said(&output), error(&output));
    assert_eq!(said(&output).trim(), "all calls answered");
}

/// Mutations caught, each alone: requests over the limit wait; a batch of one image at a time.
#[test]
fn images_that_wait_go_together_and_too_many_requests_are_refused() {
    let place = trained("serve-batch");
    let served =
        Served::start(&place, &["model.ckpt", "--max-delay-ms", "200", "--max-requests", "8"]);
    let png = image(&place, "bag");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(served.post("/predict", &[], &png).status, 200));
        }
    });
    let text = served.get("/metrics").text();
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(value("kindling_images_total"), 8.0, "{text}");
    assert!(value("kindling_batches_total") <= 3.0, "{text}");
    assert_eq!(value("kindling_batch_images_sum"), 8.0, "{text}");
    assert!(text.contains("kindling_requests_total{path=\"/predict\",code=\"200\"} 8"), "{text}");

    // Eight clients that do not finish their requests.
    let slow: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = served.connect();
            stream
                .write_all(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
                .unwrap();
            stream
        })
        .collect();
    // They and the question itself.
    let until = Instant::now() + Duration::from_secs(20);
    while !served.get("/metrics").text().contains("kindling_in_flight 9\n") {
        assert!(Instant::now() < until, "{}", served.get("/metrics").text());
        std::thread::sleep(Duration::from_millis(20));
    }
    let reply = served.post("/predict", &[], &png);
    refusal(&reply, 429, &["8 requests are under way"]);
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(served.get("/healthz").status, 200);
    drop(slow);
    assert_eq!(served.end(), 0);
}

/// Mutations caught: the body's time limit omitted.
#[test]
fn a_body_that_does_not_come_ends_with_408() {
    let place = trained("serve-slow");
    let served = Served::start(&place, &["model.ckpt", "--timeout", "0.5"]);
    let began = Instant::now();
    let reply = served.raw(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc");
    assert!(reply.starts_with("HTTP/1.1 408"), "{reply}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(served.end(), 0);
}

/// Mutations caught, each alone: a failed reload ends the model; the reload without effect.
#[test]
fn sighup_reads_the_checkpoints_again_and_keeps_what_works() {
    let place = trained("serve-reload");
    let served = Served::start(&place, &["model.ckpt"]);
    let png = image(&place, "bag");
    let before = served.post("/predict", &[], &png).json();
    let whole = std::fs::read(place.path("model.ckpt")).unwrap();
    std::fs::write(place.path("model.ckpt"), &whole[..whole.len() / 2]).unwrap();
    served.signal("HUP");
    served.wait_for("model stays as it was");
    assert_eq!(served.post("/predict", &[], &png).json()["predictions"], before["predictions"]);
    let other = place.train("b", &["--epochs", "1", "--seed", "9"]);
    assert_eq!(code(&other), 0, "{}", error(&other));
    std::fs::copy(place.checkpoint("b"), place.path("model.ckpt")).unwrap();
    served.signal("HUP");
    served.wait_for("reloaded model");
    assert_ne!(served.post("/predict", &[], &png).json()["predictions"], before["predictions"]);
    let text = served.get("/metrics").text();
    assert!(text.contains("kindling_reloads_total{result=\"failed\"} 1"), "{text}");
    assert_eq!(served.end(), 0);
}

/// Mutations caught, each alone: the end waits for a connection with half a header; it does not
/// wait for a request; `ready` while it ends.
#[test]
fn sigterm_answers_what_is_under_way_and_waits_for_nothing_else() {
    let place = trained("serve-drain");
    let mut served = Served::start(&place, &["model.ckpt", "--drain-delay", "1"]);
    let png = image(&place, "bag");
    let mut half_header = served.connect();
    half_header.write_all(b"POST /predict HT").unwrap();
    let mut idle = served.connect();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut under_way = served.connect();
    let head =
        format!("POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", png.len());
    under_way.write_all(head.as_bytes()).unwrap();
    under_way.write_all(&png[..10]).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    served.signal("TERM");
    served.wait_for("ending");
    refusal(&served.get("/readyz"), 503, &["ending"]);
    // Past the delay: no connection is taken any more.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(served.try_connect().is_err());
    under_way.write_all(&png[10..]).unwrap();
    let mut text = String::new();
    under_way.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("predictions"), "{text}");
    let start = Instant::now();
    assert_eq!(served.wait(), 0);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// Mutations caught: the deadline without effect.
#[test]
fn a_request_that_never_ends_does_not_hold_the_exit() {
    let place = trained("serve-deadline");
    let mut served = Served::start(&place, &["model.ckpt", "--drain-timeout", "1"]);
    let mut stuck = served.connect();
    stuck.write_all(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    served.signal("TERM");
    assert_eq!(served.wait(), 4);
    served.wait_for("still under way");
}

/// Mutations caught: two models of one name.
#[test]
fn what_cannot_be_served_gets_one_sentence() {
    let place = trained("serve-faults");
    let served = Served::start(&place, &["model.ckpt"]);
    let port = served.port.to_string();
    refused(
        &place.run(&["serve", "model.ckpt", "--port", &port]),
        2,
        &["another program listens there", "--port"],
    );
    refused(&place.run(&["serve", "model.ckpt", "model.ckpt"]), 2, &["`model`", "NAME="]);
    refused(&place.run(&["serve", "a b=model.ckpt"]), 2, &["`a b`", "letters"]);
    refused(&place.run(&["serve", "absent.ckpt"]), 6, &["absent.ckpt"]);
    refused(
        &place.run(&["serve", "model.ckpt", "--host", "192.0.2.1"]),
        2,
        &["192.0.2.1", "--host"],
    );
    assert_eq!(served.end(), 0);
}

/// Mutations caught: the server waits on a thread of the kernels' pool (half the throughput on two
/// cores, and no answer on one).
#[test]
fn the_server_takes_no_thread_from_the_network() {
    let place = trained("serve-threads");
    let served = Served::start(&place, &["model.ckpt", "--threads", "1"]);
    assert_eq!(served.post("/predict", &[], &image(&place, "bag")).status, 200);
    assert_eq!(served.end(), 0);
}

/// Good and bad requests from many clients at once: every one is answered, and the memory does not
/// grow.
#[test]
fn a_crowd_with_bad_input_loses_no_request_and_no_memory() {
    let place = trained("serve-soak");
    let served =
        Served::start(&place, &["model.ckpt", "--max-requests", "1000", "--log-format", "json"]);
    let png = image(&place, "bag");
    let truncated = &png[..png.len() / 2];
    let round = || {
        std::thread::scope(|scope| {
            for client in 0..8_u64 {
                let (served, png) = (&served, &png);
                scope.spawn(move || {
                    for i in 0..40 {
                        let (body, status): (Vec<u8>, u16) = match (client + i) % 4 {
                            0 | 1 => (png.clone(), 200),
                            2 => (truncated.to_vec(), 422),
                            _ => {
                                let noise = (0..9000_u64).map(|b| (b * b * 31 + i * 7 + client) as u8);
                                (noise.collect(), 415)
                            }
                        };
                        let reply = served.post("/predict", &[], &body);
                        assert_eq!(reply.status, status, "{}", reply.text());
                        if i % 10 == 0 {
                            // A client that goes away in the middle.
                            let mut gone = served.connect();
                            let _ = gone.write_all(
                                b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\nab",
                            );
                        }
                    }
                });
            }
        });
    };
    round();
    let before = served.resident_kilobytes();
    (0..4).for_each(|_| round());
    let after = served.resident_kilobytes();
    assert!(after < before + 20_000, "{before} kB, then {after} kB");
    let text = served.get("/metrics").text();
    assert!(text.contains("kindling_requests_total{path=\"/predict\",code=\"200\"} 800"), "{text}");
    assert!(text.contains("kindling_images_total 800"), "{text}");
    let lines = served.errors();
    let record: Value =
        lines.lines().find_map(|line| serde_json::from_str(line).ok()).expect("a line of JSON");
    for key in ["time", "method", "path", "status", "milliseconds", "images"] {
        assert!(!record[key].is_null(), "{key} in {record}");
    }
    assert_eq!(served.end(), 0);
}

/// The page says what `predict` says, and the camera works.
#[test]
fn the_page_in_chromium_gives_the_same_answers() {
    let Ok(browser) = std::env::var("KINDLING_BROWSER") else {
        eprintln!("KINDLING_BROWSER is not set: the page was not opened");
        return;
    };
    let place = trained("serve-browser");
    let served = Served::start(&place, &["model.ckpt"]);
    // An import is resolved beside the script.
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/tests/browser.mjs");
    std::fs::copy(script, format!("{browser}/serve.mjs")).unwrap();
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../transforms/tests/fixtures/decode");
    let images =
        ["cmyk.jpg", "deep.png", "rgb.tif", "rgba.webp", "animated.gif", "progressive.jpg"]
            .map(|name| format!("{fixtures}/{name}"));
    let compared = Command::new("node")
        .args([&format!("{browser}/serve.mjs"), env!("CARGO_BIN_EXE_kindling")])
        .args([&format!("http://127.0.0.1:{}/", served.port), "model.ckpt"])
        .args(images)
        .current_dir(place.path(""))
        .output()
        .unwrap();
    let both = format!("{}{}", said(&compared), error(&compared));
    assert!(compared.status.success(), "{both}");
    assert_eq!(served.end(), 0);
}

/// Mutations caught: a page that loads something from elsewhere.
#[test]
fn the_page_holds_everything_and_may_ask_nobody_else() {
    let place = trained("serve-page");
    let served = Served::start(&place, &["model.ckpt"]);
    let reply = served.get("/");
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    let policy = reply.header("content-security-policy").unwrap();
    assert!(
        policy.contains("default-src 'none'") && policy.contains("connect-src 'self'"),
        "{policy}"
    );
    let text = reply.text();
    assert!(!text.contains("{{") && text.contains("bag, sandal, trouser"), "{text}");
    assert!(!text.contains("http://") && !text.contains("https://"));
    assert_eq!(served.end(), 0);
}
