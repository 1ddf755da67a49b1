-- One delivery of some messages, and the result as one JSON line, the last line wrk prints.
--
--   wrk -t1 -c64 -d30 -s bench/wrk.lua http://127.0.0.1:4000/callback
--
-- The environment says how many messages, BENCH_MESSAGES=10, and how long each connection waits before a delivery,
-- BENCH_DELAY_MS=0: a random time with this mean, so that deliveries do not come in step. BENCH_CONNECTIONS=0 are those
-- of a thread: each first waits for what would be left of such a time, so that the rate is the same from the start.
--
-- Latencies are in milliseconds. "status" counts answers with a status above 399; they are part of "requests" too.

local messages = {}
for number = 1, tonumber(os.getenv("BENCH_MESSAGES") or 10) do
  messages[number] = number
end
local delay_ms = tonumber(os.getenv("BENCH_DELAY_MS") or 0)
local fresh_connections = tonumber(os.getenv("BENCH_CONNECTIONS") or 0)

wrk.method = "POST"
wrk.body = '{"messages":"' .. table.concat(messages, ",") .. '"}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json"

if delay_ms > 0 then
  -- Of two successive shares the second is what the first leaves of 1: a short load meets their mean as well.
  local left
  local function next_share()
    local share = left or math.random()
    left = not left and 1 - share or nil
    return share
  end

  -- wrk takes whole milliseconds: rounded up or down by chance, the mean stays as it was asked for.
  function delay()
    local share = next_share()
    if fresh_connections > 0 then
      fresh_connections = fresh_connections - 1
      share = 1 - math.sqrt(share)
    end
    return math.floor(2 * delay_ms * share + math.random())
  end
end

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
