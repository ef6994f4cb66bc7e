// Package metrics counts what a server process does, for Prometheus.
//
// It owns the names, labels and buckets of all metrics (told in
// docs/operator/monitoring.md) and knows nothing of the rooms they come from:
// those call the few methods here by interfaces of their own, with plain
// strings, and what is only looked at is a function given to an Add method.
// No label holds an id of an instance, a project or a user, and what others can
// choose is bounded. An observation allocates nothing, and a nil *Metrics is one
// that observes nothing.
//
// It must not be linked into the guest agent or the command line.
package metrics

import (
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const namespace = "gotrove"

// Buckets in seconds: of what a person waits for, of what crosses the bus, and
// of what is done to an instance.
var (
	httpBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	rpcBuckets  = []float64{.001, .002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15, 60, 180}
	workBuckets = []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600}
)

// Metrics are those of one process.
type Metrics struct {
	registry *prometheus.Registry
	codes    [600]string // of HTTP

	workEnded  *prometheus.CounterVec
	workTook   *prometheus.HistogramVec
	stepEnded  *prometheus.CounterVec
	stepTook   *prometheus.HistogramVec
	stepRuns   *prometheus.CounterVec
	outboxSent *prometheus.CounterVec
	called     *prometheus.HistogramVec
	cast       *prometheus.HistogramVec
	handled    *prometheus.HistogramVec
	waited     *prometheus.HistogramVec
	reports    *prometheus.CounterVec
	http       *prometheus.CounterVec
	httpTook   *prometheus.HistogramVec
	denied     *prometheus.CounterVec
	leftovers  *prometheus.CounterVec
	cloud      *prometheus.HistogramVec

	methods names // of remote procedures
}

// New makes the metrics of a process of a role: "trove-api".
func New(role, version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	for i := 100; i < len(m.codes); i++ {
		m.codes[i] = strconv.Itoa(i)
	}
	m.workEnded = m.counter("operations_total", "Operations on instances that ended, by kind and outcome (done, failed, cancelled).", "kind", "outcome")
	m.workTook = m.histogram("operation_seconds", "Time from an operation's acceptance to its end.", workBuckets, "kind", "outcome")
	m.stepEnded = m.counter("operation_steps_total", "Steps of operations that ended, by kind, step and outcome.", "kind", "step", "outcome")
	m.stepTook = m.histogram("operation_step_seconds", "Time from the beginning of a step to its end, its waits included.", workBuckets, "kind", "step")
	m.stepRuns = m.counter("operation_step_runs_total", "Runs of steps, by how each ended (next, done, nap, retry, fail, panic, lost, cancelled).", "kind", "step", "outcome")
	m.outboxSent = m.counter("outbox_messages_total", "Messages of the outbox by what became of an attempt (published, repeated, failed, expired, damaged).", "outcome")
	m.called = m.histogram("rpc_client_call_seconds", "Time of calls over the bus until their answer, by method and outcome.", rpcBuckets, "method", "outcome")
	m.cast = m.histogram("rpc_client_cast_seconds", "Time of casts over the bus until the broker's confirm.", rpcBuckets, "method", "outcome")
	m.handled = m.histogram("rpc_server_request_seconds", "Time in which requests from the bus were handled, by method and outcome.", rpcBuckets, "method", "outcome")
	m.waited = m.histogram("rpc_server_wait_seconds", "Time in which the next request of a queue waited in this process for a free worker.", rpcBuckets, "topic")
	m.reports = m.counter("guest_reports_total", "Reports of guest agents by method and what became of them.", "method", "result")
	m.http = m.counter("http_requests_total", "HTTP requests by route, method and status.", "route", "method", "code")
	m.httpTook = m.histogram("http_request_seconds", "Time of HTTP requests, event streams excepted.", httpBuckets, "route", "method")
	m.denied = m.counter("policy_denials_total", "Requests that the policy refused, by rule.", "rule")
	m.leftovers = m.counter("leftovers_removed_total", "Deleted instances of which something was still in the cloud, and was removed.")
	m.cloud = m.histogram("cloud_call_seconds", "Time of calls to the cloud, by operation and outcome.", rpcBuckets, "operation", "outcome")
	build := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: "build_info",
		Help: "1, with the version of the program.", ConstLabels: prometheus.Labels{"version": version, "role": role, "go": runtime.Version()}})
	build.Set(1)
	m.registry.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *Metrics) counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, labels)
	m.registry.MustRegister(v)
	return v
}

// maxScrapes bounds the scrapes under way.
const maxScrapes = 4

// Handler answers with all of it in Prometheus' text format. What cannot be
// collected is left out.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: maxScrapes, DisableCompression: true})
}

// WorkEnded observes the end of an operation.
func (m *Metrics) WorkEnded(kind, outcome string, took time.Duration) {
	if m == nil {
		return
	}
	m.workEnded.WithLabelValues(kind, outcome).Inc()
	m.workTook.WithLabelValues(kind, outcome).Observe(took.Seconds())
}

// StepEnded observes the end of a step of an operation.
func (m *Metrics) StepEnded(kind, step, outcome string, took time.Duration) {
	if m == nil {
		return
	}
	m.stepEnded.WithLabelValues(kind, step, outcome).Inc()
	m.stepTook.WithLabelValues(kind, step).Observe(took.Seconds())
}

// StepRan observes one run of a step.
func (m *Metrics) StepRan(kind, step, outcome string) {
	if m != nil {
		m.stepRuns.WithLabelValues(kind, step, outcome).Inc()
	}
}

// OutboxSent observes an attempt to deliver a message of the outbox.
func (m *Metrics) OutboxSent(outcome string) {
	if m != nil {
		m.outboxSent.WithLabelValues(outcome).Inc()
	}
}

// RPCCalled observes a call that this process made.
func (m *Metrics) RPCCalled(method, outcome string, took time.Duration) {
	if m != nil {
		m.called.WithLabelValues(m.methods.bounded(method), outcome).Observe(took.Seconds())
	}
}

// RPCCast observes a cast that this process sent.
func (m *Metrics) RPCCast(method, outcome string, took time.Duration) {
	if m != nil {
		m.cast.WithLabelValues(m.methods.bounded(method), outcome).Observe(took.Seconds())
	}
}

// RPCHandled observes a request that this process handled.
func (m *Metrics) RPCHandled(topic, method, outcome string, waited, took time.Duration) {
	if m == nil {
		return
	}
	m.waited.WithLabelValues(topic).Observe(waited.Seconds())
	m.handled.WithLabelValues(m.methods.bounded(method), outcome).Observe(took.Seconds())
}

// Reported observes a report of a guest agent.
func (m *Metrics) Reported(method, result string) {
	if m != nil {
		m.reports.WithLabelValues(method, result).Inc()
	}
}

// HTTPAnswered observes an HTTP request; took is 0 for one whose time tells
// nothing.
func (m *Metrics) HTTPAnswered(route, method string, code int, took time.Duration) {
	if m == nil {
		return
	}
	text := "other"
	if code >= 100 && code < len(m.codes) {
		text = m.codes[code]
	}
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		method = "other"
	}
	m.http.WithLabelValues(route, method, text).Inc()
	if took > 0 {
		m.httpTook.WithLabelValues(route, method).Observe(took.Seconds())
	}
}

// PolicyDenied observes a refusal of the policy.
func (m *Metrics) PolicyDenied(rule string) {
	if m != nil {
		m.denied.WithLabelValues(rule).Inc()
	}
}

// LeftoverRemoved counts a deleted instance of which something had been left in the
// cloud.
func (m *Metrics) LeftoverRemoved() {
	if m != nil {
		m.leftovers.WithLabelValues().Inc()
	}
}

// CloudCalled observes a call to the cloud.
func (m *Metrics) CloudCalled(operation, outcome string, took time.Duration) {
	if m != nil {
		m.cloud.WithLabelValues(operation, outcome).Observe(took.Seconds())
	}
}
