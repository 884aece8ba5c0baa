// A hash table, a red-black tree, a tokenizer with a small expression machine, and sorting: what C programs are made
// of. It is compiled by the tests, and then run.

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static void *must(void *pointer) {
    if (!pointer) die("out of memory");
    return pointer;
}

static uint64_t state = 0x9e3779b97f4a7c15u;

static uint64_t number(uint64_t limit) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % limit;
}

// Strings that grow.

struct text {
    char *start;
    size_t length, capacity;
};

static void text_add(struct text *text, const char *bytes, size_t length) {
    if (text->length + length + 1 > text->capacity) {
        text->capacity = 2 * (text->length + length + 1);
        text->start = must(realloc(text->start, text->capacity));
    }
    memcpy(text->start + text->length, bytes, length);
    text->length += length;
    text->start[text->length] = 0;
}

static void text_format(struct text *text, const char *format, ...) {
    char buffer[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    text_add(text, buffer, length < (int)sizeof buffer ? (size_t)length : sizeof buffer - 1);
}

// A hash table with chains.

struct entry {
    struct entry *next;
    char *key;
    long value;
};

struct table {
    struct entry **slots;
    size_t size, count;
};

static uint32_t hash(const char *key) {
    uint32_t sum = 2166136261u;
    while (*key) sum = (sum ^ (unsigned char)*key++) * 16777619u;
    return sum;
}

static void table_grow(struct table *table) {
    size_t size = table->size ? 2 * table->size : 16;
    struct entry **slots = must(calloc(size, sizeof *slots));
    for (size_t i = 0; i < table->size; i++) {
        for (struct entry *entry = table->slots[i], *next; entry; entry = next) {
            next = entry->next;
            struct entry **slot = &slots[hash(entry->key) % size];
            entry->next = *slot;
            *slot = entry;
        }
    }
    free(table->slots);
    table->slots = slots;
    table->size = size;
}

static long *table_find(struct table *table, const char *key, int create) {
    if (create && table->count >= table->size) table_grow(table);
    if (!table->size) return NULL;
    struct entry **slot = &table->slots[hash(key) % table->size];
    for (struct entry *entry = *slot; entry; entry = entry->next)
        if (!strcmp(entry->key, key)) return &entry->value;
    if (!create) return NULL;
    struct entry *entry = must(malloc(sizeof *entry));
    *entry = (struct entry){*slot, must(strdup(key)), 0};
    *slot = entry;
    table->count++;
    return &entry->value;
}

static int table_remove(struct table *table, const char *key) {
    if (!table->size) return 0;
    for (struct entry **at = &table->slots[hash(key) % table->size]; *at; at = &(*at)->next) {
        struct entry *entry = *at;
        if (strcmp(entry->key, key)) continue;
        *at = entry->next;
        free(entry->key);
        free(entry);
        table->count--;
        return 1;
    }
    return 0;
}

static void table_clear(struct table *table) {
    for (size_t i = 0; i < table->size; i++) {
        for (struct entry *entry = table->slots[i], *next; entry; entry = next) {
            next = entry->next;
            free(entry->key);
            free(entry);
        }
    }
    free(table->slots);
    *table = (struct table){0};
}

// A left-leaning red-black tree (Sedgewick, 2008).

struct node {
    struct node *left, *right;
    uint64_t key;
    int red;
    char payload[];
};

static int red(const struct node *node) { return node && node->red; }

static struct node *rotate_left(struct node *node) {
    struct node *up = node->right;
    node->right = up->left;
    up->left = node;
    up->red = node->red;
    node->red = 1;
    return up;
}

static struct node *rotate_right(struct node *node) {
    struct node *up = node->left;
    node->left = up->right;
    up->right = node;
    up->red = node->red;
    node->red = 1;
    return up;
}

static struct node *tree_insert(struct node *node, uint64_t key) {
    if (!node) {
        size_t length = key % 120;
        struct node *leaf = must(calloc(1, sizeof *leaf + length + 1));
        memset(leaf->payload, 'a' + (int)(key % 26), length);
        leaf->key = key;
        leaf->red = 1;
        return leaf;
    }
    if (key < node->key) node->left = tree_insert(node->left, key);
    else if (key > node->key) node->right = tree_insert(node->right, key);
    if (red(node->right) && !red(node->left)) node = rotate_left(node);
    if (red(node->left) && red(node->left->left)) node = rotate_right(node);
    if (red(node->left) && red(node->right)) {
        node->red = 1;
        node->left->red = node->right->red = 0;
    }
    return node;
}

static int tree_check(const struct node *node, uint64_t *sum) {
    if (!node) return 1;
    int left = tree_check(node->left, sum);
    *sum = *sum * 31 + node->key + strlen(node->payload);
    int right = tree_check(node->right, sum);
    if (left != right || (red(node) && red(node->left))) die("the tree is broken");
    return left + !node->red;
}

static void tree_free(struct node *node) {
    if (!node) return;
    tree_free(node->left);
    tree_free(node->right);
    free(node);
}

// Expressions: parsed into trees, folded, run.

enum kind { NUMBER, ADD, SUBTRACT, MULTIPLY, DIVIDE, NEGATE };

struct expression {
    enum kind kind;
    double value;
    struct expression *left, *right;
};

struct parser {
    const char *at;
    int depth;
};

static struct expression *make(enum kind kind, struct expression *left, struct expression *right) {
    struct expression *made = must(malloc(sizeof *made));
    *made = (struct expression){kind, 0, left, right};
    return made;
}

static struct expression *parse_sum(struct parser *parser);

static void skip(struct parser *parser) {
    while (isspace((unsigned char)*parser->at)) parser->at++;
}

static struct expression *parse_factor(struct parser *parser) {
    skip(parser);
    if (*parser->at == '-') {
        parser->at++;
        return make(NEGATE, parse_factor(parser), NULL);
    }
    if (*parser->at == '(') {
        parser->at++;
        parser->depth++;
        struct expression *inner = parse_sum(parser);
        skip(parser);
        if (*parser->at++ != ')') die("a parenthesis is missing at depth %d", parser->depth);
        parser->depth--;
        return inner;
    }
    char *end;
    errno = 0;
    struct expression *number = make(NUMBER, NULL, NULL);
    number->value = strtod(parser->at, &end);
    if (end == parser->at || errno) die("no number: %.20s", parser->at);
    parser->at = end;
    return number;
}

static struct expression *parse_product(struct parser *parser) {
    struct expression *left = parse_factor(parser);
    for (;;) {
        skip(parser);
        char operator = *parser->at;
        if (operator != '*' && operator != '/') return left;
        parser->at++;
        left = make(operator == '*' ? MULTIPLY : DIVIDE, left, parse_factor(parser));
    }
}

static struct expression *parse_sum(struct parser *parser) {
    struct expression *left = parse_product(parser);
    for (;;) {
        skip(parser);
        char operator = *parser->at;
        if (operator != '+' && operator != '-') return left;
        parser->at++;
        left = make(operator == '+' ? ADD : SUBTRACT, left, parse_product(parser));
    }
}

// Replaces a tree of constants by its value, and frees what it consisted of.
static double fold(struct expression *node) {
    double left = node->left ? fold(node->left) : 0, right = node->right ? fold(node->right) : 0;
    double value = node->value;
    switch (node->kind) {
    case NUMBER: break;
    case ADD: value = left + right; break;
    case SUBTRACT: value = left - right; break;
    case MULTIPLY: value = left * right; break;
    case DIVIDE: value = right != 0 ? left / right : 0; break;
    case NEGATE: value = -left; break;
    }
    free(node);
    return value;
}

static void write_expression(struct text *text, int depth) {
    if (depth == 0) {
        text_format(text, "%d.%02d", (int)number(100), (int)number(100));
        return;
    }
    text_add(text, "(", 1);
    write_expression(text, depth - 1 - (int)number(depth > 1 ? 2 : 1));
    text_format(text, " %c ", "+-*/"[number(4)]);
    if (number(5) == 0) text_add(text, "-", 1);
    write_expression(text, depth - 1);
    text_add(text, ")", 1);
}

static int by_text(const void *left, const void *right) {
    return strcmp(*(char *const *)left, *(char *const *)right);
}

int main(int count, char **arguments) {
    size_t size = count > 1 ? strtoul(arguments[1], NULL, 10) : 1000;

    struct table table = {0};
    struct text text = {0};
    for (size_t i = 0; i < size; i++) {
        text.length = 0;
        text_format(&text, "key %lu", (unsigned long)number(size / 2 + 1));
        *table_find(&table, text.start, 1) += (long)i;
        if (i % 5 == 0) {
            text.length = 0;
            text_format(&text, "key %lu", (unsigned long)number(size / 2 + 1));
            table_remove(&table, text.start);
        }
    }
    char **keys = must(malloc(table.count * sizeof *keys));
    size_t found = 0;
    for (size_t i = 0; i < table.size; i++)
        for (struct entry *entry = table.slots[i]; entry; entry = entry->next) keys[found++] = entry->key;
    qsort(keys, found, sizeof *keys, by_text);
    unsigned long sum = 0;
    for (size_t i = 0; i < found; i++) sum = sum * 33 + hash(keys[i]) + (unsigned long)*table_find(&table, keys[i], 0);
    printf("table %zu %lu first \"%s\" last \"%s\"\n", found, sum, keys[0], keys[found - 1]);
    free(keys);
    table_clear(&table);

    struct node *tree = NULL;
    for (size_t i = 0; i < size; i++) {
        tree = tree_insert(tree, number(10 * size));
        tree->red = 0;
    }
    uint64_t keyed = 0;
    int height = tree_check(tree, &keyed);
    printf("tree %d %llu\n", height, (unsigned long long)keyed);
    tree_free(tree);

    double total = 0;
    size_t longest = 0;
    for (size_t i = 0; i < size / 100; i++) {
        text.length = 0;
        write_expression(&text, 6);
        struct parser parser = {text.start, 0};
        struct expression *parsed = parse_sum(&parser);
        if (*parser.at) die("something is left: %.20s", parser.at);
        total += fold(parsed) / (double)(i + 1);
        if (text.length > longest) longest = text.length;
    }
    printf("expressions %.6e longest %zu\n", total, longest);
    free(text.start);
    return 0;
}
