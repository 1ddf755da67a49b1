// Fastify, logger off: every message runs in a turn of the event loop of its own.
//
//   node server.mjs PORT [console|buffered]
//
// console:  console.log, as one writes it. With stdout in a file that is one write(2) for every line.
// buffered: lines are gathered and written 8 KiB at a time, as Python's print does into a file.
//
// GET /count tells how many events were completed.

import { writeSync } from 'node:fs'
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
let events = 0

function handle(message) {
  print(`message = '${message}'`)
  events += 1
}

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
  for (const message of request.body.messages.split(',')) setImmediate(handle, message)
  return { ok: 'ok' }
})

fastify.get('/count', async () => ({ events }))

process.once('SIGTERM', async () => {
  await fastify.close()
  setImmediate(() => {
    lines?.flush()
    process.exit(0)
  })
})

await fastify.listen({ host: '127.0.0.1', port })
