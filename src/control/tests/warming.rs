//! When a model is warmed up: before it takes requests over from another, else beside them.

use super::sleeping::asleep_at_first;
use super::*;

impl House {
    fn runs(&self) -> Vec<String> {
        self.engine.runs.lock().unwrap().clone()
    }

    async fn until_run(&self, text: &str) {
        let ran = async {
            while !self.runs().contains(&text.to_owned()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, ran).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_revision_serves_without_waiting_to_be_warm() {
    let mut house = House::with(&[("models/iris.txt", "cold")]).await;
    house.put("models/iris.yaml", &service("iris", "iris.txt"));
    house.until_revision("iris", 1).await;
    house.until_run("cold").await;
    drop(house.hold.take());
    assert_eq!(house.ask("iris").await.unwrap(), "cold");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_move_to_a_revision_once_it_is_warm() {
    let mut house =
        House::with(&[("models/a.txt", "a"), ("models/cold.txt", "cold"), ("models/iris.yaml", &service("iris", "a.txt"))]).await;
    house.put("models/iris.yaml", &service("iris", "cold.txt"));
    house.until_run("cold").await;
    assert_eq!(house.ask("iris").await.unwrap(), "a");
    drop(house.hold.take());
    house.until_revision("iris", 2).await;
    assert_eq!(house.ask("iris").await.unwrap(), "cold");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_that_wakes_a_model_is_the_first_to_run() {
    let house = asleep_at_first(&[]).await;
    assert_eq!(house.runs().len(), 0, "what goes to sleep at once is not warmed up");
    assert_eq!(house.ask("iris").await.unwrap(), "setosa");
    assert_eq!(house.runs().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_fails_on_zeros_serves_all_the_same() {
    let house = House::with(&[("models/iris.txt", "errs"), ("models/iris.yaml", &service("iris", "iris.txt"))]).await;
    house.until_run("errs").await;
    assert!(matches!(house.ask("iris").await, Err(InferenceError::Engine(_))));
    assert!(house.router.load().find(Scope::Default, "iris").unwrap().ready().is_ok());
}
