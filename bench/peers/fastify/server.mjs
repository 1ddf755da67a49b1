// Fastify, logger off: every message runs in a turn of the event loop of its own.
//
//   node server.mjs PORT [console|buffered]
//
// console:  console.log, as one writes it. With stdout in a file that is one write(2) for every line.
// buffered: lines are gathered and written 8 KiB at a time, as Python's print does into a file.
//
// The environment says what a handler does, as bench/peers/asked.py tells; the connections are mysql2's, in its own
// pool. GET /count tells how many events were completed.

import { writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'

const BUFFER_CHARS = 8192

class BufferedLines {
  #pending = ''

  print(line) {
    this.#pending += line + '\n'
    if (this.#pending.length >= BUFFER_CHARS) this.flush()
  }

  flush() {
    let bytes = Buffer.from(this.#pending)
    this.#pending = ''
    while (bytes.length > 0) bytes = bytes.subarray(writeSync(1, bytes))
  }
}

const port = Number(process.argv[2])
const lines = process.argv[3] === 'buffered' ? new BufferedLines() : null
const print = lines ? (line) => lines.print(line) : (line) => console.log(line)
const scenario = Number(process.env.BENCH_SCENARIO ?? 1)
const [shortest, longest] = (process.env.BENCH_NAP_S ?? '2-3').split('-').map((seconds) => Number(seconds) * 1000)
const connections = Number(process.env.BENCH_DB_POOL ?? 50)
const OPENED_AT_ONCE = 50 // thousands at once take longer than the driver waits for one
const tally = { events: 0, failed: 0, running: 0 }
const pool = scenario === 3 ? await openPool().catch(giveUp) : null

// The pool of mysql2's own guide; by itself it opens a connection when one is first asked for.
async function openPool() {
  const { default: mysql } = await import('mysql2/promise')
  const size = { connectionLimit: connections, maxIdle: connections, queueLimit: 0 }
  const pool = mysql.createPool({ uri: process.env.BENCH_DB, waitForConnections: true, ...size })
  const opened = []
  while (opened.length < connections) {
    const length = Math.min(OPENED_AT_ONCE, connections - opened.length)
    opened.push(...(await Promise.all(Array.from({ length }, () => pool.getConnection()))))
  }
  for (const connection of opened) connection.release()
  return pool
}

function giveUp(error) {
  console.error(error.message)
  process.exit(1)
}

async function wait() {
  await sleep(shortest + Math.random() * (longest - shortest))
  if (pool) await pool.query('SELECT NOW()')
}

function note(message) {
  print(`message = '${message}'`)
  tally.running -= 1
  tally.events += 1
}

async function run() {
  try {
    await wait()
    tally.events += 1
  } catch (error) {
    tally.failed += 1
    console.error(error.message)
  } finally {
    tally.running -= 1
  }
}

const handle = scenario === 1 ? note : run

const schema = {
  body: {
    type: 'object',
    required: ['messages'],
    properties: { messages: { type: 'string' } },
  },
  response: {
    200: { type: 'object', properties: { ok: { type: 'string' } } },
  },
}

const fastify = Fastify({ logger: false })

fastify.post('/callback', { schema }, async (request) => {
  for (const message of request.body.messages.split(',')) {
    tally.running += 1
    setImmediate(handle, message)
  }
  return { ok: 'ok' }
})

fastify.get('/count', async () => tally)

process.once('SIGTERM', async () => {
  await fastify.close()
  await pool?.end()
  setImmediate(() => {
    lines?.flush()
    process.exit(0)
  })
})

await fastify.listen({ host: '127.0.0.1', port })
