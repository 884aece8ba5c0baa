PRAGMA journal_mode = MEMORY;
PRAGMA synchronous = OFF;
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, city TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customers, amount INTEGER, note TEXT);
CREATE TABLE log (what TEXT, amount INTEGER);
CREATE TRIGGER large AFTER INSERT ON orders WHEN new.amount > 9900 BEGIN
    INSERT INTO log VALUES ('large', new.amount);
END;
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ROWS / 10)
INSERT INTO customers SELECT i, printf('customer %05d', i * 7919 % 100003), 'city ' || (i * 31 % 97) FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ROWS)
INSERT INTO orders
SELECT i, i * 7919 % (ROWS / 10) + 1, i * 104729 % 10007, printf('%.*c', i % 200, 'n') || i FROM n;
COMMIT;
CREATE INDEX by_customer ON orders (customer, amount);
CREATE INDEX by_city ON customers (city);
CREATE INDEX by_note ON orders (substr(note, 1, 10));
SELECT city, count(*), sum(amount), max(length(note))
FROM customers JOIN orders ON orders.customer = customers.id
GROUP BY city ORDER BY sum(amount) DESC, city LIMIT 20;
SELECT name, amount, rank() OVER (PARTITION BY city ORDER BY amount DESC) AS place
FROM customers JOIN orders ON orders.customer = customers.id WHERE city = 'city 5' ORDER BY place, name, amount LIMIT 30;
SELECT count(*), sum(amount) FROM log;
UPDATE orders SET note = note || ' again', amount = amount + 1 WHERE id % 5 = 0;
DELETE FROM orders WHERE customer IN (SELECT id FROM customers WHERE city LIKE 'city 1%');
SELECT count(*), sum(amount), sum(length(note)) FROM orders;
SELECT group_concat(name, ',') FROM (SELECT name FROM customers ORDER BY name LIMIT 200);
SELECT count(DISTINCT substr(note, 1, 10)) FROM orders;
WITH RECURSIVE paths(id, path) AS (
    SELECT 1, '1' UNION ALL SELECT id * 2 % 1009, path || '>' || id FROM paths WHERE length(path) < 2000
) SELECT count(*), max(length(path)) FROM paths;
SELECT json_group_array(json_object('c', customer, 'n', total)) FROM
    (SELECT customer, count(*) AS total FROM orders GROUP BY customer ORDER BY customer LIMIT 50);
VACUUM;
PRAGMA integrity_check;
