-- One delivery of ten messages, and the result as one JSON line, the last line wrk prints.
--
--   wrk -t1 -c64 -d30 -s bench/wrk.lua http://127.0.0.1:4000/callback
--
-- Latencies are in milliseconds. "status" counts answers with a status above 399; they are part of "requests" too.

wrk.method = "POST"
wrk.body = '{"messages":"1,2,3,4,5,6,7,8,9,10"}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json"

local function errors_json(errors)
  return string.format(
    '{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}',
    errors.connect, errors.read, errors.write, errors.status, errors.timeout)
end

local function latency_json(latency)
  local function milliseconds(percentile) return latency:percentile(percentile) / 1000 end
  return string.format(
    '{"p50":%.3f,"p90":%.3f,"p99":%.3f,"p99.9":%.3f,"max":%.3f}',
    milliseconds(50), milliseconds(90), milliseconds(99), milliseconds(99.9), latency.max / 1000)
end

function done(summary, latency, requests)
  io.write(string.format(
    '{"requests":%d,"duration_s":%.6f,"errors":%s,"latency_ms":%s}\n',
    summary.requests, summary.duration / 1e6, errors_json(summary.errors), latency_json(latency)))
end
