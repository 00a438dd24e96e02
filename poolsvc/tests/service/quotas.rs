//! Quotas of the configuration file, as clients and operators see them.

use std::fs;

use pool_core::page::PAGE_SIZE;
use serde_json::json;

use super::common::{Service, content};

#[test]
fn a_quota_is_told_and_kept_to() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("poolsvc.toml");
    let (pages, others) = (2 * PAGE_SIZE, 100 * PAGE_SIZE);
    let text = format!(
        "[[quota]]\nprefix = 'team-'\nbytes = {pages}\n[[quota]]\nprefix = ''\nbytes = {others}\n"
    );
    fs::write(&config, text).unwrap();
    let service = Service::start(&["--config", config.to_str().unwrap()]);
    let quotas = |team: u64, all: u64| {
        let stats = service.get("/v1/stats").expect(200).json();
        let expected = json!([
            {"prefix": "team-", "bytes": pages, "used_bytes": team},
            {"prefix": "", "bytes": others, "used_bytes": all},
        ]);
        assert_eq!(stats["quotas"], expected);
    };
    quotas(0, 0);
    service.put("/v1/libs/team-z/1", &content(1, 2)).expect(201);
    service.put("/v1/libs/other/1", &content(2, 3)).expect(201);
    quotas(pages, pages + 3 * PAGE_SIZE);
    let refused = service.put("/v1/libs/team-z/2", &content(3, 1)).expect(403);
    let problem = refused.json();
    assert_eq!(problem["error"], "quota-exceeded");
    let detail = problem["detail"].as_str().unwrap();
    for part in ["\"team-\"", &pages.to_string(), "pool rm"] {
        assert!(detail.contains(part), "{detail}");
    }
    service.get("/v1/libs/team-z/2").expect(404);
    let metrics = service.get("/metrics").expect(200);
    let metrics = String::from_utf8(metrics.bytes).unwrap();
    let line = format!("pool_quota_used_bytes{{prefix=\"team-\"}} {pages}\n");
    assert!(metrics.contains(&line), "{metrics}");
    service.delete("/v1/libs/team-z/1").expect(204);
    service.put("/v1/libs/team-z/2", &content(3, 1)).expect(201);
    quotas(PAGE_SIZE, 4 * PAGE_SIZE);
}

#[test]
fn what_a_quota_leaves_no_room_for_is_refused_before_it_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("poolsvc.toml");
    fs::write(&config, "[[quota]]\nprefix = 'team-'\nbytes = 4096\n").unwrap();
    let service = Service::start(&["--config", config.to_str().unwrap()]);
    for path in ["/v1/libs/team-z/1", "/v1/images/team-i/v1"] {
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 4097\r\n\r\n"
        );
        // It does not wait for any of it.
        let answer = service.told(&head);
        assert!(answer.starts_with("HTTP/1.1 403"), "{path}: {answer}");
        assert!(answer.contains("quota-exceeded"), "{path}: {answer}");
    }
    service.put("/v1/libs/team-z/1", &[1; 10]).expect(201);
}
