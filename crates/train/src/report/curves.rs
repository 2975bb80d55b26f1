//! The curves of one run, or of several over each other.

use crate::plot::line_chart::{LineChart, Series};
use crate::report::history::Epoch;

fn series(name: &str, epochs: &[Epoch], value: impl Fn(&Epoch) -> f64) -> Series {
    let points = epochs.iter().map(|epoch| [epoch.number, value(epoch)]).collect();
    Series { name: name.to_owned(), points, dots: false }
}

fn chart(title: &str, y: &str, from_zero: bool, series: Vec<Series>) -> LineChart {
    let last = series.iter().flat_map(|series| &series.points).map(|point| point[0]);
    let last = last.fold(1.0, f64::max);
    LineChart {
        x_range: Some([1.0, last.max(2.0)]),
        title: title.to_owned(),
        x: "epoch".to_owned(),
        y: y.to_owned(),
        from_zero,
        series,
        ..LineChart::default()
    }
}

/// The range of losses that shows the training: the first evaluations may be far above it.
fn loss_range(epochs: &[Epoch]) -> Option<[f64; 2]> {
    let most = |value: fn(&Epoch) -> f64| {
        epochs.iter().map(value).filter(|loss| loss.is_finite()).fold(0.0, f64::max)
    };
    let (train, val) = (most(|epoch| epoch.train_loss), most(|epoch| epoch.val_loss));
    (train > 0.0 && val > 2.0 * train).then_some([0.0, 1.5 * train])
}

/// Loss, accuracy, learning rate and wait for data of one run.
pub(super) fn of_run(epochs: &[Epoch], best: Option<f64>) -> [LineChart; 4] {
    let mut accuracy = vec![series("top-1", epochs, |e| e.top1)];
    if epochs.iter().any(|epoch| epoch.ema.is_finite()) {
        accuracy.push(series("top-1 of the EMA", epochs, |e| e.ema));
    }
    let mut accuracy = chart("Validation accuracy", "images right, %", false, accuracy);
    accuracy.marks =
        best.map(|epoch| (epoch, format!("best: epoch {epoch:.0}"))).into_iter().collect();
    let losses = vec![
        series("training", epochs, |e| e.train_loss),
        series("validation", epochs, |e| e.val_loss),
    ];
    let mut loss = chart("Loss", "cross-entropy, nats", true, losses);
    loss.y_range = loss_range(epochs);
    [
        loss,
        accuracy,
        chart("Learning rate", "learning rate", true, vec![series("", epochs, |e| e.lr)]),
        chart(
            "Waiting for data",
            "share of the time, %",
            true,
            vec![series("", epochs, |e| e.wait)],
        ),
    ]
}

/// Training loss, validation loss and accuracy of several runs.
pub(super) fn of_runs(runs: &[(String, Vec<Epoch>)]) -> [LineChart; 3] {
    let all = |value: fn(&Epoch) -> f64| {
        runs.iter().map(|(name, epochs)| series(name, epochs, value)).collect::<Vec<_>>()
    };
    [
        chart("Validation accuracy", "images right, %", false, all(|e| e.top1)),
        chart("Validation loss", "cross-entropy, nats", true, all(|e| e.val_loss)),
        chart("Training loss", "cross-entropy, nats", true, all(|e| e.train_loss)),
    ]
}

/// Charts below each other in one drawing.
pub(super) fn stacked(charts: &[LineChart]) -> String {
    let height = 300 * charts.len();
    let parts = charts.iter().enumerate().map(|(number, chart)| {
        let own = chart.svg();
        own.replacen("<svg ", &format!("<svg y=\"{}\" ", 300 * number), 1)
    });
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 520 {height}\" width=\"520\" \
         height=\"{height}\">\n{}</svg>\n",
        parts.collect::<String>()
    )
}
