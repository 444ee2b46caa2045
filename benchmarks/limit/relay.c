/* The limit: what the six packets cost when nothing but the six packets is done.

   Strategy: one thread, epoll, level-triggered. One recv for each readiness event; the frames that it makes are collected for each
   connection, and at the end of the turn each connection that has any gets one send. No store, no repeats recognised, no cursors,
   no windows: a server that keeps its promises can only come near to these figures. Users and conversations live in tables that
   only grow, for a run lasts seconds.

   It prints "listening 127.0.0.1:PORT" and stops at SIGTERM or SIGINT. Whatever does not fit the protocol closes its connection. */

#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "frame.h"

#define EVENTS 1024
#define BACKLOG 1024
#define OUT_CAP (8 * 1024 * 1024) /* bytes kept for one who does not read; above it, the connection is closed */
#define OUT_SHRINK (64 * 1024)    /* an empty buffer larger than this is given back */
#define REQUESTS 65535            /* no bound: every request is answered in its own turn */
#define NOTIFIES 65535            /* no bound: window counts are taken and not used */
#define HEARTBEAT 600

/* A planted fault, for the tests of the load: every PLANT_LOSS-th message is not passed on, every PLANT_DOUBLE-th twice. */
#ifndef PLANT_LOSS
#define PLANT_LOSS 0
#endif
#ifndef PLANT_DOUBLE
#define PLANT_DOUBLE 0
#endif

struct connection {
    int fd;
    bool greeted, dirty, blocked, doomed;
    struct user *user; /* null before login */
    uint8_t device[ID_SIZE];
    uint8_t *kept; /* the beginning of a frame whose end has not come */
    size_t kept_size;
    uint8_t *out; /* out[sent..size] waits for the socket */
    size_t out_sent, out_size, out_room;
};

struct user {
    struct connection *connection; /* the latest login; null if there is none */
    uint32_t number;
    uint8_t uid_size;
    uint8_t uid[MAX_UID];
};

struct conversation {
    struct user *members[2];
    uint64_t seq;
    uint64_t told[2]; /* the furthest seq that each member has acknowledged */
};

/* Open addressing: key → index + 1; zero is empty. */
struct slot {
    uint64_t key;
    uint32_t value;
};
struct table {
    struct slot *slots;
    size_t size, used;
};

static int poller;
static uint64_t now_ms;
static uint8_t arena[READ_SIZE + HEADER_SIZE + DEFAULT_MAX_BODY];

static struct connection **dirty, **doomed;
static size_t dirty_count, dirty_room, doomed_count, doomed_room;

static struct user **users;
static size_t user_count, user_room;
static struct table user_table;

static struct conversation *conversations;
static size_t conversation_count, conversation_room;
static struct table pair_table;

static uint64_t sessions;

static void *resized(void *memory, size_t size)
{
    memory = realloc(memory, size);
    if (!memory) {
        perror("relay: memory");
        exit(1);
    }
    return memory;
}

/* Room for one more item in a growing array. */
#define GROW(array, count, room)                                            \
    do {                                                                    \
        if ((count) == (room)) {                                            \
            (room) = (room) ? 2 * (room) : 1024;                            \
            (array) = resized((array), (room) * sizeof *(array));           \
        }                                                                   \
    } while (0)

static uint64_t mixed(uint64_t key)
{
    key ^= key >> 32;
    key *= 0x9e3779b97f4a7c15u;
    return key ^ key >> 29;
}

static void table_add(struct table *table, uint64_t key, uint32_t value)
{
    if (2 * (table->used + 1) > table->size) {
        struct table larger = {NULL, table->size ? 2 * table->size : 4096, 0};
        larger.slots = calloc(larger.size, sizeof *larger.slots);
        if (!larger.slots) {
            perror("relay: memory");
            exit(1);
        }
        for (size_t i = 0; i < table->size; i++)
            if (table->slots[i].value)
                table_add(&larger, table->slots[i].key, table->slots[i].value - 1);
        free(table->slots);
        *table = larger;
    }
    size_t at = mixed(key) & (table->size - 1);
    while (table->slots[at].value)
        at = (at + 1) & (table->size - 1);
    table->slots[at] = (struct slot){key, value + 1};
    table->used++;
}

static uint64_t uid_key(const uint8_t *uid, size_t size)
{
    uint64_t key = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < size; i++)
        key = (key ^ uid[i]) * 0x100000001b3u;
    return key;
}

static struct user *user_named(const uint8_t *uid, size_t size, bool create)
{
    uint64_t key = uid_key(uid, size);
    if (user_table.size)
        for (size_t at = mixed(key) & (user_table.size - 1); user_table.slots[at].value; at = (at + 1) & (user_table.size - 1)) {
            struct user *user = users[user_table.slots[at].value - 1];
            if (user_table.slots[at].key == key && user->uid_size == size && !memcmp(user->uid, uid, size))
                return user;
        }
    if (!create)
        return NULL;
    struct user *user = resized(NULL, sizeof *user);
    *user = (struct user){.number = user_count, .uid_size = size};
    memcpy(user->uid, uid, size);
    GROW(users, user_count, user_room);
    users[user_count] = user;
    table_add(&user_table, key, user_count++);
    return user;
}

/* The conversation of two users; its id is its index + 1. */
static struct conversation *conversation_of(struct user *a, struct user *b)
{
    if (a->number > b->number) {
        struct user *swap = a;
        a = b;
        b = swap;
    }
    uint64_t key = (uint64_t)a->number << 32 | b->number;
    if (pair_table.size)
        for (size_t at = mixed(key) & (pair_table.size - 1); pair_table.slots[at].value; at = (at + 1) & (pair_table.size - 1))
            if (pair_table.slots[at].key == key)
                return &conversations[pair_table.slots[at].value - 1];
    GROW(conversations, conversation_count, conversation_room);
    conversations[conversation_count] = (struct conversation){.members = {a, b}};
    table_add(&pair_table, key, conversation_count);
    return &conversations[conversation_count++];
}

/* A conversation by its id, if the user is a member. */
static struct conversation *conversation_seen_by(uint64_t id, struct user *user)
{
    if (id == 0 || id > conversation_count)
        return NULL;
    struct conversation *found = &conversations[id - 1];
    return found->members[0] == user || found->members[1] == user ? found : NULL;
}

/* The connection ends with this turn; what it was already told is still sent. */
static void doom(struct connection *c)
{
    if (c->doomed)
        return;
    c->doomed = true;
    if (c->user && c->user->connection == c)
        c->user->connection = NULL;
    GROW(doomed, doomed_count, doomed_room);
    doomed[doomed_count++] = c;
}

/* A place for the next bytes to a connection; they leave at the end of the turn. */
static uint8_t *room(struct connection *c, size_t size)
{
    if (!c->dirty) {
        c->dirty = true;
        GROW(dirty, dirty_count, dirty_room);
        dirty[dirty_count++] = c;
    }
    if (c->out_size + size > c->out_room) {
        c->out_room = 2 * (c->out_size + size);
        c->out = resized(c->out, c->out_room);
    }
    if (c->out_size > OUT_CAP)
        doom(c);
    uint8_t *at = c->out + c->out_size;
    c->out_size += size;
    return at;
}

static uint8_t *begin(struct connection *c, uint32_t length, uint32_t tag, uint32_t request_id)
{
    return put_header(room(c, HEADER_SIZE + length), length, tag, request_id, 0);
}

static void refuse(struct connection *c, uint32_t tag, uint32_t request_id, uint32_t status)
{
    uint8_t *body = put_header(room(c, HEADER_SIZE + SIZE_ERROR), SIZE_ERROR, tag, request_id, status);
    memset(body, 0, SIZE_ERROR);
}

static void watch(struct connection *c, bool writable)
{
    struct epoll_event event = {.events = EPOLLIN | (writable ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
    c->blocked = writable;
}

static void flush(struct connection *c)
{
    ssize_t sent = send(c->fd, c->out + c->out_sent, c->out_size - c->out_sent, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR) {
            doom(c);
            return;
        }
        sent = 0;
    }
    c->out_sent += sent;
    if (c->out_sent == c->out_size) {
        c->out_sent = c->out_size = 0;
        if (c->out_room > OUT_SHRINK) {
            free(c->out);
            c->out = NULL;
            c->out_room = 0;
        }
        if (c->blocked)
            watch(c, false);
    } else {
        memmove(c->out, c->out + c->out_sent, c->out_size - c->out_sent);
        c->out_size -= c->out_sent;
        c->out_sent = 0;
        if (!c->blocked && !c->doomed)
            watch(c, true);
    }
}

static bool on_hello(struct connection *c, uint32_t request_id, uint32_t size)
{
    if (c->greeted || size < SIZE_REQUEST_HELLO)
        return false;
    c->greeted = true;
    uint8_t *body = begin(c, SIZE_RESPONSE_HELLO + 5, TAG_RESPONSE_HELLO, request_id);
    body[AT_RESPONSE_HELLO_VERSION] = WIRE_VERSION;
    put32(body + AT_RESPONSE_HELLO_FEATURES, 0);
    put32(body + AT_RESPONSE_HELLO_MAX_BODY, DEFAULT_MAX_BODY);
    put16(body + AT_RESPONSE_HELLO_HEARTBEAT, HEARTBEAT);
    put16(body + AT_RESPONSE_HELLO_WINDOW, NOTIFIES);
    put16(body + AT_RESPONSE_HELLO_REQUESTS, REQUESTS);
    put64(body + AT_RESPONSE_HELLO_TIME, now_ms);
    memcpy(body + SIZE_RESPONSE_HELLO, "limit", 5);
    return true;
}

static bool on_login(struct connection *c, uint32_t request_id, const uint8_t *body, uint32_t size)
{
    if (!c->greeted || c->user || size < SIZE_REQUEST_LOGIN)
        return false;
    size_t tenant_size = body[AT_REQUEST_LOGIN_TENANT_SIZE], uid_size = body[AT_REQUEST_LOGIN_UID_SIZE];
    size_t label_size = body[AT_REQUEST_LOGIN_LABEL_SIZE];
    if (SIZE_REQUEST_LOGIN + tenant_size + uid_size + label_size > size || uid_size == 0 || uid_size > MAX_UID)
        return false;
    if (body[AT_REQUEST_LOGIN_METHOD] != LOGIN_METHOD_ANONYMOUS) {
        refuse(c, TAG_RESPONSE_LOGIN, request_id, STATUS_UNSUPPORTED);
        return true;
    }
    c->user = user_named(body + SIZE_REQUEST_LOGIN + tenant_size, uid_size, true);
    c->user->connection = c;
    memcpy(c->device, body + AT_REQUEST_LOGIN_DEVICE, ID_SIZE);
    uint8_t *answer = begin(c, SIZE_RESPONSE_LOGIN, TAG_RESPONSE_LOGIN, request_id);
    memset(answer, 0, SIZE_RESPONSE_LOGIN);
    put64(answer + AT_RESPONSE_LOGIN_SESSION, ++sessions);
    return true;
}

static bool on_message(struct connection *c, uint32_t request_id, const uint8_t *body, uint32_t size)
{
    if (size < SIZE_REQUEST_MESSAGE)
        return false;
    struct user *sender = c->user;
    uint32_t content_at = SIZE_REQUEST_MESSAGE + body[AT_REQUEST_MESSAGE_TARGET_SIZE];
    if (content_at > size)
        return false;
    uint32_t content_size = size - content_at, length = SIZE_NOTIFY_MESSAGE + sender->uid_size + content_size;
    if (length > DEFAULT_MAX_BODY) {
        refuse(c, TAG_RESPONSE_MESSAGE, request_id, STATUS_TOO_LARGE);
        return true;
    }
    uint64_t id = get64(body + AT_REQUEST_MESSAGE_CONVERSATION);
    struct conversation *conversation;
    if (id) {
        conversation = conversation_seen_by(id, sender);
    } else {
        struct user *target = user_named(body + SIZE_REQUEST_MESSAGE, content_at - SIZE_REQUEST_MESSAGE, false);
        conversation = target ? conversation_of(sender, target) : NULL;
    }
    if (!conversation) {
        refuse(c, TAG_RESPONSE_MESSAGE, request_id, STATUS_NO_SUCH);
        return true;
    }
    id = conversation - conversations + 1;
    uint64_t seq = ++conversation->seq;

    uint8_t *answer = begin(c, SIZE_RESPONSE_MESSAGE, TAG_RESPONSE_MESSAGE, request_id);
    put64(answer + AT_RESPONSE_MESSAGE_CONVERSATION, id);
    put64(answer + AT_RESPONSE_MESSAGE_SEQ, seq);
    put64(answer + AT_RESPONSE_MESSAGE_TIME, now_ms);

    struct user *receiver = conversation->members[conversation->members[0] == sender];
    if (receiver == sender || !receiver->connection)
        return true;
    int copies = 1;
    if (PLANT_LOSS && seq % (PLANT_LOSS + !PLANT_LOSS) == 0)
        copies = 0;
    if (PLANT_DOUBLE && seq % (PLANT_DOUBLE + !PLANT_DOUBLE) == 0)
        copies = 2;
    while (copies--) {
        uint8_t *notify = begin(receiver->connection, length, TAG_NOTIFY_MESSAGE, 0);
        put64(notify + AT_NOTIFY_MESSAGE_CONVERSATION, id);
        put64(notify + AT_NOTIFY_MESSAGE_SEQ, seq);
        put64(notify + AT_NOTIFY_MESSAGE_TIME, now_ms);
        memcpy(notify + AT_NOTIFY_MESSAGE_DEVICE, c->device, ID_SIZE);
        memcpy(notify + AT_NOTIFY_MESSAGE_CLIENT_ID, body + AT_REQUEST_MESSAGE_CLIENT_ID, ID_SIZE);
        notify[AT_NOTIFY_MESSAGE_ROW_TYPE] = ROW_TYPE_MESSAGE;
        notify[AT_NOTIFY_MESSAGE_CONTENT_TYPE] = body[AT_REQUEST_MESSAGE_CONTENT_TYPE];
        put32(notify + AT_NOTIFY_MESSAGE_LIFE, get32(body + AT_REQUEST_MESSAGE_LIFE));
        notify[AT_NOTIFY_MESSAGE_SENDER_SIZE] = sender->uid_size;
        memcpy(notify + SIZE_NOTIFY_MESSAGE, sender->uid, sender->uid_size);
        memcpy(notify + SIZE_NOTIFY_MESSAGE + sender->uid_size, body + content_at, content_size);
    }
    return true;
}

static bool on_receipt(struct connection *c, uint32_t request_id, const uint8_t *body, uint32_t size)
{
    if (size != SIZE_REQUEST_RECEIPT)
        return false;
    uint64_t id = get64(body + AT_REQUEST_RECEIPT_CONVERSATION), seq = get64(body + AT_REQUEST_RECEIPT_SEQ);
    struct conversation *conversation = conversation_seen_by(id, c->user);
    if (!conversation || seq > conversation->seq) {
        refuse(c, TAG_RESPONSE_RECEIPT, request_id, conversation ? STATUS_BAD_VALUE : STATUS_NO_SUCH);
        return true;
    }
    begin(c, SIZE_RESPONSE_RECEIPT, TAG_RESPONSE_RECEIPT, request_id);
    int me = conversation->members[0] != c->user;
    struct user *other = conversation->members[!me];
    if (seq <= conversation->told[me])
        return true;
    conversation->told[me] = seq;
    if (other == c->user || !other->connection)
        return true;
    uint8_t *notify = begin(other->connection, SIZE_NOTIFY_RECEIPT + c->user->uid_size, TAG_NOTIFY_RECEIPT, 0);
    put64(notify + AT_NOTIFY_RECEIPT_CONVERSATION, id);
    put64(notify + AT_NOTIFY_RECEIPT_SEQ, seq);
    notify[AT_NOTIFY_RECEIPT_TYPE] = body[AT_REQUEST_RECEIPT_TYPE];
    memcpy(notify + SIZE_NOTIFY_RECEIPT, c->user->uid, c->user->uid_size);
    return true;
}

/* Serves one frame; false ends the connection. */
static bool serve(struct connection *c, uint32_t tag, uint32_t request_id, const uint8_t *body, uint32_t size)
{
    switch (tag) {
    case TAG_REQUEST_MESSAGE:
        return c->user && on_message(c, request_id, body, size);
    case TAG_REQUEST_RECEIPT:
        return c->user && on_receipt(c, request_id, body, size);
    case TAG_NOTIFY_WINDOW:
        return c->user && size == SIZE_NOTIFY_WINDOW;
    case TAG_REQUEST_HELLO:
        return on_hello(c, request_id, size);
    case TAG_REQUEST_LOGIN:
        return on_login(c, request_id, body, size);
    case TAG_REQUEST_PING:
        put64(begin(c, SIZE_RESPONSE_PING, TAG_RESPONSE_PING, request_id), now_ms);
        return c->greeted;
    case TAG_REQUEST_LOGOUT:
        begin(c, SIZE_RESPONSE_LOGOUT, TAG_RESPONSE_LOGOUT, request_id);
        return false;
    default:
        return false;
    }
}

static void keep(struct connection *c, const uint8_t *data, size_t size)
{
    if (size == 0) {
        if (c->kept_size) {
            free(c->kept);
            c->kept = NULL;
        }
    } else {
        c->kept = resized(c->kept, size);
        memcpy(c->kept, data, size);
    }
    c->kept_size = size;
}

static void on_readable(struct connection *c)
{
    if (c->kept_size)
        memcpy(arena, c->kept, c->kept_size);
    ssize_t got = recv(c->fd, arena + c->kept_size, READ_SIZE, 0);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR))
            doom(c);
        return;
    }
    size_t at = 0, end = c->kept_size + got;
    while (end - at >= HEADER_SIZE) {
        uint32_t length = get32(arena + at);
        if (length > (c->user ? DEFAULT_MAX_BODY : STRANGER_MAX_BODY)) {
            doom(c);
            return;
        }
        if (end - at - HEADER_SIZE < length)
            break;
        if (!serve(c, get32(arena + at + 4), get32(arena + at + 8), arena + at + HEADER_SIZE, length)) {
            doom(c);
            return;
        }
        at += HEADER_SIZE + length;
    }
    keep(c, arena + at, end - at);
}

static void on_connect(int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE) {
                perror("relay: accept");
                exit(1);
            }
            return;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        struct connection *c = resized(NULL, sizeof *c);
        *c = (struct connection){.fd = fd};
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

static void end_turn(void)
{
    for (size_t i = 0; i < dirty_count; i++) {
        struct connection *c = dirty[i];
        c->dirty = false;
        if (!c->blocked)
            flush(c);
    }
    dirty_count = 0;
    for (size_t i = 0; i < doomed_count; i++) {
        struct connection *c = doomed[i];
        close(c->fd);
        free(c->kept);
        free(c->out);
        free(c);
    }
    doomed_count = 0;
}

static int open_listener(void)
{
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) || listen(listener, BACKLOG) ||
        getsockname(listener, (struct sockaddr *)&address, &size)) {
        perror("relay: listen");
        exit(1);
    }
    printf("listening 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

/* Signals come as readiness, so that none is missed between a look and a wait. */
static int open_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

int main(void)
{
    static struct epoll_event events[EVENTS];
    static char listener_mark, signal_mark; /* their addresses tell these two from connections */
    poller = epoll_create1(EPOLL_CLOEXEC);
    int signals = open_signals();
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* never outlives who started it, however that one ends */
    int listener = open_listener();
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN, .data.ptr = &listener_mark});
    epoll_ctl(poller, EPOLL_CTL_ADD, signals, &(struct epoll_event){.events = EPOLLIN, .data.ptr = &signal_mark});
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS, -1);
        if (count < 0 && errno != EINTR) {
            perror("relay: epoll_wait");
            return 1;
        }
        struct timespec clock;
        clock_gettime(CLOCK_REALTIME, &clock);
        now_ms = (uint64_t)clock.tv_sec * 1000 + clock.tv_nsec / 1000000;
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == &signal_mark)
                return 0;
            if (events[i].data.ptr == &listener_mark) {
                on_connect(listener);
                continue;
            }
            struct connection *c = events[i].data.ptr;
            if (c->doomed)
                continue;
            if (events[i].events & EPOLLOUT)
                flush(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !c->doomed)
                on_readable(c);
        }
        end_turn();
    }
}
