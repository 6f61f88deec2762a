//! The gateway as its operator sees it.

use crate::{scene::Scene, support::metrics::Metrics};

impl Scene {
    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::read(self.admin).await
    }
}
