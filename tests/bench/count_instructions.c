// A plugin of qemu-user: adds the number of instructions of every block that runs to a counter in a shared file.
//
// The program that runs under QEMU maps the same file and reads the counter whenever it likes. Inline additions are
// not atomic between threads: count programs that compute in one.
//
// No package carries qemu-plugin.h, so here is what is used of its API, version 1 (QEMU 6.0 to 8.2).
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct qemu_plugin_tb;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*callback)(uint64_t id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t added);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

int qemu_plugin_version = 1;

static uint64_t *counter;

static void translated(uint64_t id, struct qemu_plugin_tb *block) {
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, counter, qemu_plugin_tb_n_insns(block));
}

// The one argument is counter=FILE, a file of at least 8 bytes.
int qemu_plugin_install(uint64_t id, const void *info, int count, char **arguments) {
    static const char key[] = "counter=";
    (void)info;
    if (count != 1 || strncmp(arguments[0], key, sizeof key - 1))
        return -1;
    int file = open(arguments[0] + sizeof key - 1, O_RDWR);
    if (file < 0)
        return -1;
    counter = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (counter == MAP_FAILED)
        return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
