// Objects, buffers, compression on the thread pool, digests, workers, and the collector under load.
'use strict';
const crypto = require('crypto');
const zlib = require('zlib');
const { promisify } = require('util');
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');

const digest = (data) => crypto.createHash('sha256').update(data).digest('hex').slice(0, 16);

function churn(seed, count) {
  let state = seed;
  const number = (limit) => (state = (state * 48271) % 2147483647) % limit;
  const kept = new Map();
  const buffers = [];
  for (let n = 0; n < count; n++) {
    kept.set(number(5000), { n, text: 'x'.repeat(number(100)), list: [n, [n]] });
    if (n % 3 === 0) kept.delete(number(5000));
    buffers[number(200)] = Buffer.alloc(number(20000), n & 0xff);
  }
  const hash = crypto.createHash('sha256');
  for (const buffer of buffers) if (buffer) hash.update(buffer);
  const text = JSON.stringify([...kept].sort((a, b) => a[0] - b[0]));
  return [kept.size, text.length, digest(text), hash.digest('hex').slice(0, 16)].join(' ');
}

if (!isMainThread) {
  parentPort.postMessage(churn(workerData.seed, workerData.count));
} else {
  (async () => {
    const count = Number(process.argv[2]);
    console.log('churn', churn(1, count));
    const data = Buffer.from(Array.from({ length: count * 10 }, (_, n) => (n * n) & 0x7f));
    const packed = await Promise.all([1, 6, 9].map((level) => promisify(zlib.deflate)(data, { level })));
    const again = await Promise.all(packed.map((one) => promisify(zlib.inflate)(one)));
    console.log('zlib', packed.map((one) => one.length), again.every((one) => one.equals(data)));
    const keys = await Promise.all([1, 2, 3, 4].map((n) => promisify(crypto.scrypt)('secret', 'salt' + n, 32, { N: 1024 })));
    console.log('scrypt', keys.map(digest).join(' '));
    const texts = 'word1 other22 third333 '.repeat(count).match(/[a-z]+(\d+)/g);
    console.log('match', texts.length, digest(texts.join('')));
    const workers = await Promise.all([2, 3].map((seed) => new Promise((resolve, reject) => {
      new Worker(__filename, { workerData: { seed, count: count / 2 } }).on('message', resolve).on('error', reject);
    })));
    console.log('workers', workers);
  })();
}
