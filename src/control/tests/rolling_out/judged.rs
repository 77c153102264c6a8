//! Canaries before their judge.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_good_canary_is_promoted_by_its_judge_and_stays_so() {
    let judge = "kserved.io/canary-judge: 'true', kserved.io/judge-requests: '20'";
    let mut house = court(&canary("a.txt", "minReplicas: 1", judge)).await;
    house.until_traffic("1:100 | 1 0").await;
    house.put("models/iris.yaml", &canary("b.txt", "canaryTrafficPercent: 50", judge));
    let judging = |status: &InferenceServiceStatus| status.condition(status::CANARY_JUDGED).is_some_and(|told| told.reason == "Judging");
    house.until_status("iris", "judging", judging).await;
    let promoted = |status: &InferenceServiceStatus| told(status) == "2:100 | 2 1";
    let status = house.ask_until("promoted", promoted).await;
    let verdict = status.condition(status::CANARY_JUDGED).unwrap();
    assert_eq!((verdict.reason.as_str(), verdict.severity.as_str()), ("Promoted", "Info"));
    assert!(verdict.message.contains("requests failed on the canary"), "{}", verdict.message);
    assert_eq!(house.answers().await, set(&["b"]));
    // The file still asks for half of the requests; what is decided stands until it asks for something else.
    house.put("models/iris.yaml", &canary("c.txt", "canaryTrafficPercent: 50", ""));
    house.until_traffic("3:50 2:50:prev | 2 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_canary_is_rolled_back_by_its_judge() {
    let judge = "kserved.io/canary-judge: 'true'";
    let mut house = court(&canary("a.txt", "minReplicas: 1", judge)).await;
    house.until_traffic("1:100 | 1 0").await;
    house.put("models/iris.yaml", &canary("errs.txt", "canaryTrafficPercent: 50", judge));
    house.until_traffic("2:50 1:50:prev | 1 0").await;
    let status = house.ask_until("rolled back", |status| told(status) == "2:0 1:100:prev | 1 0").await;
    assert_eq!(status.condition(status::CANARY_JUDGED).unwrap().reason, "RolledBack");
    assert_eq!(house.answers().await, set(&["a"]));
    house.put("models/iris.yaml", &canary("errs.txt", "canaryTrafficPercent: 40", ""));
    house.until_traffic("2:40 1:60:prev | 1 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dark_canary_that_answers_otherwise_is_found_by_its_shadow() {
    let judge = "kserved.io/canary-judge: 'true', kserved.io/judge-requests: '5', kserved.io/judge-drift-tolerance: '0.1', \
                 kserved.io/judge-shadow-percent: '100'";
    let mut house = court(&canary("a.txt", "minReplicas: 1", judge)).await;
    house.until_traffic("1:100 | 1 0").await;
    house.put("models/iris.yaml", &canary("b.txt", "canaryTrafficPercent: 0", judge));
    house.until_traffic("2:0 1:100:prev | 1 0").await;
    let decided = |status: &InferenceServiceStatus| status.condition(status::CANARY_JUDGED).is_some_and(|told| told.reason != "Judging");
    let status = house.ask_until("decided", decided).await;
    let verdict = status.condition(status::CANARY_JUDGED).unwrap();
    assert_eq!(verdict.reason, "RolledBack");
    assert!(verdict.message.contains("labels differ"), "{}", verdict.message);
    assert_eq!(house.answers().await, set(&["a"]), "no answer of a shadow reached anybody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_whose_slowest_requests_wait_is_rolled_back_though_its_mean_is_no_worse() {
    let judge = "kserved.io/canary-judge: 'true'";
    let mut house = court(&canary("a.txt", "minReplicas: 1", judge)).await;
    house.until_traffic("1:100 | 1 0").await;
    house.put("models/iris.yaml", &canary("lags.txt", "canaryTrafficPercent: 50", judge));
    house.until_traffic("2:50 1:50:prev | 1 0").await;
    let status = house.ask_until("rolled back", |status| told(status) == "2:0 1:100:prev | 1 0").await;
    let verdict = status.condition(status::CANARY_JUDGED).unwrap();
    assert!(verdict.message.contains("99 of a hundred took at most 5"), "{}", verdict.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn canary_predictors_are_judged_each_for_itself() {
    let judge = "kserved.io/canary-judge: 'true', kserved.io/judge-requests: '20'";
    let canaries = [("v2", "b.txt", 40), ("v3", "errs.txt", 30)];
    let mut house = court(&standard_with(judge, "", "a.txt", &canaries)).await;
    let both = |status: &InferenceServiceStatus| {
        status
            .condition(status::CANARY_JUDGED)
            .is_some_and(|told| told.message.contains("v2-predictor") && told.message.contains("v3-predictor"))
    };
    house.until_status("iris", "judging both", both).await;
    let decided = |status: &InferenceServiceStatus| status.condition(status::CANARY_JUDGED).is_some_and(|told| told.reason == "Promoted");
    let status = house.ask_until("decided", decided).await;
    let verdict = status.condition(status::CANARY_JUDGED).unwrap();
    assert!(verdict.message.contains("iris-v2-predictor-00002 takes the requests"), "{}", verdict.message);
    assert!(verdict.message.contains("iris-v3-predictor-00003 has no requests"), "{}", verdict.message);
    house.until_answers(&["b"]).await;
    // Another share is another question; what else was decided stands.
    house.put("models/iris.yaml", &standard_with(judge, "", "a.txt", &[("v2", "b.txt", 10), ("v3", "errs.txt", 30)]));
    house.until_answers(&["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn canary_predictors_that_answer_otherwise_are_found_by_their_shadows() {
    let judge = "kserved.io/canary-judge: 'true', kserved.io/judge-requests: '5', kserved.io/judge-drift-tolerance: '0.1', \
                 kserved.io/judge-shadow-percent: '100'";
    let canaries = [("v2", "b.txt", 20), ("v3", "c.txt", 20)];
    let mut house = court(&standard_with(judge, "", "a.txt", &canaries)).await;
    let decided = |status: &InferenceServiceStatus| {
        status.condition(status::CANARY_JUDGED).is_some_and(|told| told.message.matches("labels differ").count() == 2)
    };
    let status = house.ask_until("decided", decided).await;
    assert_eq!(status.condition(status::CANARY_JUDGED).unwrap().reason, "RolledBack");
    house.until_answers(&["a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_is_forgotten_with_the_percentage_it_was_given_for() {
    let judge = "kserved.io/canary-judge: 'true', kserved.io/judge-requests: '5'";
    let mut house = court(&canary("a.txt", "minReplicas: 1", judge)).await;
    house.until_traffic("1:100 | 1 0").await;
    house.put("models/iris.yaml", &canary("b.txt", "canaryTrafficPercent: 50", judge));
    house.until_traffic("2:50 1:50:prev | 1 0").await;
    house.ask_until("promoted", |status| told(status) == "2:100 | 2 1").await;
    house.put("models/iris.yaml", &canary("b.txt", "canaryTrafficPercent: 0", ""));
    house.until_traffic("2:0 1:100:prev | 1 1").await;
    house.put("models/iris.yaml", &canary("b.txt", "canaryTrafficPercent: 50", ""));
    house.until_traffic("2:50 1:50:prev | 1 1").await;
}
