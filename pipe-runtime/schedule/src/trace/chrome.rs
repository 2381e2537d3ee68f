use std::fmt::Write;

use super::Trace;
use crate::list::ActionKind;

impl Trace {
    /// Writes all runs as Chrome's trace events (JSON), for <https://ui.perfetto.dev> and
    /// `chrome://tracing`. There is one row per rank. An action is called `F3 stage 1` and has the
    /// thread that ran it. Times are in microseconds.
    pub fn to_chrome(&self) -> String {
        // Only numbers and fixed words are written, so nothing needs escaping.
        let mut text = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n".to_owned();
        text.push_str("{\"ph\":\"M\",\"pid\":0,\"name\":\"process_name\",\"args\":{\"name\":\"pipeline\"}}");
        for rank in 0..self.runs.iter().map(|run| run.schedule.ranks.len()).max().unwrap_or(0) {
            let _ = write!(
                text,
                ",\n{{\"ph\":\"M\",\"pid\":0,\"tid\":{rank},\"name\":\"thread_name\",\"args\":{{\"name\":\"rank {rank}\"}}}}"
            );
        }
        for (number, run) in self.runs.iter().enumerate() {
            for step in &run.steps {
                let (action, microseconds) = (step.action, |seconds: f64| seconds * 1e6);
                let _ = write!(
                    text,
                    ",\n{{\"ph\":\"X\",\"pid\":0,\"tid\":{},\"name\":\"{}{} stage {}\",\"cat\":\"{}\",\"ts\":{:.3},\"dur\":{:.3},\
                     \"args\":{{\"run\":{number},\"micro-batch\":{},\"stage\":{},\"thread\":{}}}}}",
                    step.rank,
                    action.kind.letter(),
                    action.micro_batch,
                    action.stage,
                    word(action.kind),
                    microseconds(step.start),
                    microseconds(step.end - step.start),
                    action.micro_batch,
                    action.stage,
                    step.thread,
                );
            }
        }
        text.push_str("\n]}\n");
        text
    }
}

fn word(kind: ActionKind) -> &'static str {
    match kind {
        ActionKind::Forward => "forward",
        ActionKind::Recompute => "recomputation",
        ActionKind::Backward => "backward",
        ActionKind::BackwardInput => "backward for the inputs",
        ActionKind::BackwardWeight => "backward for the parameters",
    }
}
